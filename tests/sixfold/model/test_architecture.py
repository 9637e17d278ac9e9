"""The derived architecture of each family, against what a reader of its modeling code knows."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P

from sixfold.checkpoint.checkpoint import Checkpoint, open_checkpoint
from sixfold.errors import SixfoldError
from sixfold.model import derivation
from sixfold.model.architecture import Architecture, Linear, require_quantizable
from sixfold.model.dataflow import is_one_plus
from sixfold.model.derivation import derive_architecture
from sixfold.model.source import open_source
from tests.families import make_family

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def derive(folders: Path, model_type: str, **changes: object) -> Architecture:
    folder = folders / model_type
    if not folder.exists():
        make_family(model_type, folder, **changes)
    return derive_architecture(open_checkpoint(str(folder)))


def linear(architecture: Architecture, name: str) -> Linear:
    return next(found for found in architecture.linears if found.name == name)


def readers(architecture: Architecture, norm: str) -> set[str]:
    return set(next(found for found in architecture.norms if found.weight == norm).readers)


def test_derived_once_for_the_same_config_and_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another config, another shape or another order of tensors is another model."""
    monkeypatch.setattr(derivation, "_derived", {})
    whole = open_checkpoint(str(DEMO))
    known = derive_architecture(whole)
    asked: list[Checkpoint] = []

    def derived(checkpoint: Checkpoint) -> Architecture:
        asked.append(checkpoint)
        return known

    monkeypatch.setattr(derivation, "_derive", derived)
    assert derive_architecture(open_checkpoint(str(DEMO))) is known
    assert asked == []
    name, tensor = next(iter(whole.tensors.items()))
    others = [
        replace(whole, config={**whole.config, "num_experts_per_tok": 1}),
        replace(whole, tensors={**whole.tensors, name: replace(tensor, shape=(1, *tensor.shape))}),
        replace(whole, tensors=dict(reversed(whole.tensors.items()))),
    ]
    for other in others:
        derive_architecture(other)
    assert asked == others


def test_minimax_m2_demo() -> None:
    architecture = derive_architecture(open_checkpoint(str(DEMO)))
    assert (architecture.layers, architecture.experts, architecture.experts_per_token) == (2, 8, 2)
    roles = Counter(found.role for found in architecture.linears)
    assert roles == {"attention": 8, "router": 2, "expert": 48, "lm_head": 1}
    assert architecture.correction_biases == tuple(
        f"model.layers.{i}.block_sparse_moe.e_score_correction_bias" for i in (0, 1)
    )
    w3 = linear(architecture, "model.layers.1.block_sparse_moe.experts.5.w3")
    assert (w3.expert, w3.part, w3.layer, w3.quantizable) == (5, "up", 1, True)
    assert w3.fused == ("model.layers.1.block_sparse_moe.experts.5.w1", w3.name)
    assert w3.site == "model.layers.1.block_sparse_moe.experts.*.w1"
    assert linear(architecture, "model.layers.1.block_sparse_moe.experts.5.w2").fused == ()
    assert not linear(architecture, "model.layers.0.block_sparse_moe.gate").quantizable
    assert not linear(architecture, "lm_head").quantizable
    assert architecture.not_run == ()


def test_the_router_reads_the_norm_that_experts_read() -> None:
    """Smoothing that norm without the router would change routing without a word."""
    architecture = derive_architecture(open_checkpoint(str(DEMO)))
    block = "model.layers.0.block_sparse_moe"
    expected = {f"{block}.gate"} | {f"{block}.experts.{i}.{w}" for i in range(8) for w in ("w1", "w3")}
    assert readers(architecture, "model.layers.0.post_attention_layernorm.weight") == expected
    assert all(norm.exact for norm in architecture.norms if norm.weight.endswith("layernorm.weight"))


def test_norms_inside_attention_are_never_exact() -> None:
    """q_norm's output goes through the rotary embedding: no scale can be moved across it."""
    architecture = derive_architecture(open_checkpoint(str(DEMO)))
    inside = [norm for norm in architecture.norms if norm.weight.endswith(("q_norm.weight", "k_norm.weight"))]
    assert len(inside) == 4
    assert not any(norm.exact or norm.readers for norm in inside)


def test_deepseek_v3_shared_experts_mla_and_dense_first_layer(folders: Path) -> None:
    architecture = derive(folders, "deepseek_v3")
    first, second = "model.layers.0", "model.layers.1"
    assert linear(architecture, f"{first}.mlp.gate_proj").role == "mlp"
    assert linear(architecture, f"{second}.mlp.shared_experts.up_proj").role == "shared_expert"
    assert linear(architecture, f"{second}.mlp.gate").role == "router"
    pair = (f"{second}.self_attn.q_a_proj", f"{second}.self_attn.kv_a_proj_with_mqa")
    assert linear(architecture, pair[0]).fused == pair
    assert linear(architecture, pair[0]).site == linear(architecture, pair[1]).site
    assert linear(architecture, f"{second}.self_attn.kv_b_proj").norm == f"{second}.self_attn.kv_a_layernorm.weight"
    found = readers(architecture, f"{second}.post_attention_layernorm.weight")
    assert {f"{second}.mlp.gate", f"{second}.mlp.shared_experts.gate_proj"} <= found
    assert f"{second}.mlp.experts.7.down_proj" not in found
    assert architecture.correction_biases == (f"{second}.mlp.gate.e_score_correction_bias",)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral", "glm4_moe", "llama", "qwen3", "gpt_oss"])
def test_every_matrix_is_accounted_for(folders: Path, model_type: str) -> None:
    """Each 2-D weight of the checkpoint is a Linear or the embedding; q, k and v share one site and one group."""
    architecture = derive(folders, model_type)
    checkpoint = open_checkpoint(str(folders / model_type))
    matrices = {n for n, t in checkpoint.tensors.items() if len(t.shape) == 2 and n.endswith(".weight")}
    assert matrices - {found.weight for found in architecture.linears} == {"model.embed_tokens.weight"}
    qkv = [found for found in architecture.linears if found.part in ("q_proj", "k_proj", "v_proj") and found.layer == 1]
    assert len({found.site for found in qkv}) == 1
    assert all(len(found.fused) == 3 for found in qkv)
    assert architecture.unobserved == ""
    assert bool(architecture.stacked_experts) == (model_type == "gpt_oss")


@pytest.mark.parametrize(
    ("model_type", "router"),
    [("hunyuan_v1_moe", "model.layers.1.mlp.gate.wg"), ("afmoe", "model.layers.1.mlp.router.gate")],
)
def test_a_router_is_known_by_what_it_decides(folders: Path, model_type: str, router: str) -> None:
    """Wherever it stands in the block and whatever its name: it is what chooses experts."""
    found = linear(derive(folders, model_type), router)
    assert (found.role, found.quantizable) == ("router", False)


@pytest.mark.parametrize(
    ("model_type", "routers"),
    [
        ("longcat_flash", {"model.layers.0.mlp.router.classifier"}),
        ("jetmoe", {"model.layers.1.mlp.router.layer", "model.layers.1.self_attention.experts.router.layer"}),
        ("dbrx", {"transformer.blocks.1.ffn.router.layer"}),
    ],
)
def test_a_router_is_known_by_its_name_outside_of_the_experts_interface(
    folders: Path, model_type: str, routers: set[str]
) -> None:
    architecture = derive(folders, model_type)
    found = {name: linear(architecture, name) for name in routers}
    assert {(router.role, router.quantizable) for router in found.values()} == {("router", False)}


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        (
            "jetmoe",
            r"fp8: jetmoe stores the experts of a layer as one array \(model.layers.0.mlp.input_linear.weight\)",
        ),
        ("dbrx", r"fp8: dbrx stores the experts of a layer as one array \(transformer.blocks.0.ffn.experts.mlp.v1\)"),
    ],
)
def test_what_would_leave_the_experts_unquantized_is_refused(folders: Path, model_type: str, message: str) -> None:
    with pytest.raises(SixfoldError, match=message):
        require_quantizable(derive(folders, model_type), "fp8")


def test_the_indexer_of_sparse_attention_is_left_alone_but_reads_its_norms(folders: Path) -> None:
    """Engines make its weights_proj without a scale, and newer ones fuse it with wk."""
    architecture = derive(folders, "glm_moe_dsa")
    prefix = "model.layers.1.self_attn.indexer"
    for part in ("wq_b", "wk", "weights_proj"):
        assert not linear(architecture, f"{prefix}.{part}").quantizable
    assert {f"{prefix}.wk", f"{prefix}.weights_proj"} <= readers(architecture, "model.layers.1.input_layernorm.weight")


def test_the_projections_of_linear_attention_that_engines_fuse(folders: Path) -> None:
    architecture = derive(folders, "qwen3_5_moe_text")
    prefix = "model.layers.0.linear_attn"
    for pair in (("in_proj_qkv", "in_proj_z"), ("in_proj_b", "in_proj_a")):
        assert linear(architecture, f"{prefix}.{pair[0]}").fused == tuple(f"{prefix}.{part}" for part in pair)


def test_a_tower_for_images_is_left_alone(folders: Path) -> None:
    """Its layers are numbered like the language model's, and its Linears are called the same."""
    linears = derive(folders, "gemma3").linears
    assert {found.role for found in linears if "vision_tower" in found.name} == {"other"}
    assert sum(found.quantizable for found in linears) == 2 * (4 + 3)


def test_names_that_older_ones_would_be_renamed_to(folders: Path) -> None:
    """transformers reads `x.norm.` as the older name of `x.kv_norm.`, and still finds `model.norm.` itself."""
    architecture = derive(folders, "deepseek_v4")
    assert "model.norm.weight" in {norm.weight for norm in architecture.norms}
    assert architecture.correction_biases == ("model.layers.1.ffn.gate.bias",)


def test_a_norm_that_needs_its_gate(folders: Path) -> None:
    norms = {norm.weight: norm for norm in derive(folders, "kimi_linear").norms}
    assert not norms["model.layers.0.self_attn.o_norm.weight"].one_plus


def test_numbers_that_json_has_no_word_for(folders: Path) -> None:
    """transformers writes infinity as {"__float__": "Infinity"}, and reads it so."""
    architecture = derive(folders, "nemotron_h")
    assert "__float__" in (folders / "nemotron_h" / "config.json").read_text()
    assert linear(architecture, "backbone.layers.1.mixer.experts.3.up_proj").role == "expert"


def test_what_a_recurrent_mixer_reads_and_gives_is_told_from_what_controls_it(folders: Path) -> None:
    """dt and decay are small numbers that a whole sequence is multiplied by."""
    roles = {found.part: found.role for found in derive(folders, "jamba").linears if ".mamba." in found.name}
    assert roles == {"in_proj": "mixer", "out_proj": "mixer", "x_proj": "other", "dt_proj": "other"}
    delta = {f.part: f.role for f in derive(folders, "kimi_linear").linears if ".layers.0.self_attn." in f.name}
    assert {part for part, role in delta.items() if role == "mixer"} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {part for part, role in delta.items() if role == "other"} == set(delta) - {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    }
    small = {f.part: f.role for f in derive(folders, "qwen3_5_moe_text").linears if ".linear_attn." in f.name}
    assert small == {
        "in_proj_qkv": "mixer",
        "in_proj_z": "mixer",
        "out_proj": "mixer",
        "in_proj_a": "other",
        "in_proj_b": "other",
    }


def test_an_mlp_under_any_name_is_one(folders: Path) -> None:
    """Nemotron-H calls attention, MLP, MoE and Mamba alike `mixer`."""
    roles = {
        f.name.removeprefix("backbone.layers."): f.role
        for f in derive(folders, "nemotron_h").linears
        if f.expert is None
    }
    assert roles["0.mixer.in_proj"] == "mixer"
    assert roles["1.mixer.shared_experts.up_proj"] == "shared_expert"
    assert roles["2.mixer.q_proj"] == "attention"
    assert roles["3.mixer.up_proj"] == roles["3.mixer.down_proj"] == "mlp"


def test_tied_head_makes_the_last_norm_inexact(folders: Path) -> None:
    """The head is the embedding: scaling it would change what tokens look up."""
    architecture = derive(folders, "qwen3")
    assert architecture.tied_embeddings
    assert not next(norm for norm in architecture.norms if norm.weight == "model.norm.weight").exact


def test_a_norm_that_subtracts_the_mean_may_multiply_by_one_plus_weight() -> None:
    assert is_one_plus(NemotronLayerNorm1P(8))
    assert is_one_plus(torch.nn.LayerNorm(8)) is False


def test_gemma_norms_multiply_by_one_plus_weight(folders: Path) -> None:
    assert all(norm.one_plus for norm in derive(folders, "gemma2").norms)
    assert not any(norm.one_plus for norm in derive(folders, "llama").norms)


def test_mtp_layers_are_not_run(tmp_path: Path) -> None:
    folder = make_family("deepseek_v3", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.eh_proj.weight"] = torch.zeros(256, 512, dtype=torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    architecture = derive_architecture(open_checkpoint(str(folder)))
    assert architecture.not_run == ("model.layers.2.eh_proj.weight",)
    assert all(found.weight != "model.layers.2.eh_proj.weight" for found in architecture.linears)


def edit(folder: Path, change: str) -> None:
    """Damage a saved Mixtral in one way."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    block = "model.layers.0.block_sparse_moe"
    if change == "missing":
        del weights["model.layers.1.self_attn.k_proj.weight"]
    elif change == "missing expert projection":
        del weights[f"{block}.experts.2.w3.weight"]
    elif change == "shape":
        weights[f"{block}.gate.weight"] = torch.zeros(4, 128, dtype=torch.bfloat16)
    elif change == "expert shape":
        weights[f"{block}.experts.1.w1.weight"] = torch.zeros(512, 128, dtype=torch.bfloat16)
    elif change == "unknown":
        weights["model.layers.0.adapter.weight"] = torch.zeros(4, 4, dtype=torch.bfloat16)
    save_file(weights, path, metadata={"format": "pt"})
    if change in ("fewer experts", "model type", "layers", "no model type", "no language model", "fewer layers"):
        config = json.loads((folder / "config.json").read_text())
        changed = {
            "fewer experts": {"num_local_experts": 3},
            "model type": {"model_type": "mixtral_9000", "architectures": ["Mixtral9000ForCausalLM"]},
            "layers": {"num_hidden_layers": 3},
            "no model type": {"model_type": None},
            "no language model": {"model_type": "clip"},
            "fewer layers": {"num_hidden_layers": 1},
        }[change]
        (folder / "config.json").write_text(json.dumps(config | changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"lacks tensors that its config.json calls for: model.layers.1.self_attn.k_proj.weight; download"),
        ("missing expert projection", r"lacks a projection of expert 2 for model.layers.0.mlp.experts.gate_up_proj"),
        ("shape", r"block_sparse_moe.gate.weight in .* has shape \[4, 128\], but config.json says \[4, 256\]; correct"),
        ("expert shape", r"experts.1.w1.weight in .* has shape \[512, 128\], but config.json says \[512, 256\]"),
        ("unknown", r"holds tensors that its config.json has no place for: model.layers.0.adapter.weight; correct"),
        (
            "fewer experts",
            r"holds 4 experts for model.layers.0.mlp.experts.gate_up_proj \(numbers 0 to 3\), but .* says 3",
        ),
        ("layers", r"lacks tensors that its config.json calls for: model.layers.2.*and \d+ more"),
        (
            "model type",
            r"transformers .* has no causal language model for model_type 'mixtral_9000'.*; use a checkpoint",
        ),
        (
            "fewer layers",
            r"has no place for: model.layers.1.block_sparse_moe.experts.0.w1.weight, .* and \d+ more; corr",
        ),
        (
            "no language model",
            r"model_type 'clip' in .*for this kind of AutoModel: AutoModelForCausalLM\); use a",
        ),
        ("no model type", r"config.json has no model_type; take it from the original model's config.json"),
    ],
)
def test_refusals_name_the_tensor_and_the_remedy(tmp_path: Path, change: str, message: str) -> None:
    folder = make_family("mixtral", tmp_path / "model")
    edit(folder, change)
    with pytest.raises(SixfoldError, match=message):
        derive_architecture(open_checkpoint(str(folder)))


def test_an_architecture_under_a_publishers_own_name(tmp_path: Path) -> None:
    """As Kimi-K2 is a DeepSeek-V3: config.json names the class that runs it."""
    folder = make_family("deepseek_v3", tmp_path)
    known = open_source(folder).architecture
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "kimi_k2"}))
    assert replace(open_source(folder).architecture, model_type=known.model_type) == known
