"""Moving scales between weights must leave the model what it is, and touch nothing where it would not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from exporters.awq import EXPORTER, QUANTIZED, RESCALED, RESCALED_ONE_PLUS, rescale
from exporters.selection import select
from exporters.smoothing import awq_search
from exporters.smoothing.awq_search import decided
from exporters.smoothing.scale_search import Found
from exporters.smoothing.smoothing_groups import SmoothingGroup, misfit_of, smoothing_groups
from sixfold.artifact.safetensors_layout import whole
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from sixfold.statistics.statistics import Statistics
from tests import families
from tests.exporters.exported import DEMO, recipe
from tests.families import COMMON, make_family

pytestmark = pytest.mark.arithmetic

AWQ = recipe("awq", "W4A16_ASYM")
NOTHING = Statistics(Path("nowhere"), {"sites": {}, "files": {}})

QWEN2_MOE: dict[str, Any] = {
    **{k: v for k, v in COMMON.items() if k != "head_dim"},
    "num_key_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 256,
}
BIASED = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}


def scale_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group gets a scale from 1/4 to 4 that no search chose."""
    generator = torch.Generator().manual_seed(0)

    def find(search: object, groups: Sequence[SmoothingGroup], each: object) -> list[Found]:
        channels = [group.readers[0].in_features for group in groups]
        scales = [torch.rand(number, generator=generator).mul_(4).sub_(2).exp2() for number in channels]
        return [Found(scale, torch.zeros(2)) for scale in scales]

    monkeypatch.setattr(awq_search, "find_scales", find)


def smoothed(source: Source) -> dict[str, torch.Tensor]:
    """All tensors as an export would write them, but without rounding: only what is stored of norms is in BF16."""
    plan = EXPORTER.plan(source, AWQ, None)
    decisions = {i: EXPORTER.decide(source, AWQ, NOTHING, i).tensors for i in range(source.architecture.layers)}
    tensors = {}
    for unit in plan.units:
        name = unit.inputs[0].name
        tensor = source.checkpoint.read(unit.inputs[0])
        if unit.encoding in (QUANTIZED, RESCALED, RESCALED_ONE_PLUS):
            assert unit.layer is not None
            here, module = decisions[unit.layer], name.rpartition(".")[0]
            if tensor.dim() == 1 and name.endswith("norm.weight"):
                (tensor,) = EXPORTER.encode(unit, [tensor], here, AWQ)
                assert tensor.dtype == torch.bfloat16
            else:
                columns, rows = decided(here, module, "in"), decided(here, module, "out")
                tensor = rescale(tensor, columns, rows)
        tensors[name] = tensor.float().contiguous()
    return tensors


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(24, dtype=torch.long).view(1, -1) * 7 % 500
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize(
    ("family", "changes", "kinds"),
    [
        ("minimax_m2", {}, {"input_layernorm": 2, "post_attention_layernorm": 2, "w3": 8}),
        ("qwen3_moe", {}, {"input_layernorm": 2, "post_attention_layernorm": 2, "up_proj": 16}),
        ("mixtral", {}, {"input_layernorm": 2, "post_attention_layernorm": 2, "w3": 8}),
        ("qwen2_moe", {}, {"input_layernorm": 2, "post_attention_layernorm": 2, "up_proj": 10, "v_proj": 2}),
        (
            "deepseek_v3",
            {},
            {
                "input_layernorm": 2,
                "post_attention_layernorm": 2,
                "q_a_layernorm": 2,
                "kv_a_layernorm": 2,
                "up_proj": 10,
            },
        ),
        ("llama", {}, {"input_layernorm": 2, "post_attention_layernorm": 2, "up_proj": 2}),
        ("llama", BIASED, {"input_layernorm": 2, "post_attention_layernorm": 2, "up_proj": 2, "v_proj": 2}),
        ("gemma2", {}, {"input_layernorm": 2, "pre_feedforward_layernorm": 2, "up_proj": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_smoothed_model_is_the_same_model(
    family: str, changes: dict[str, Any], kinds: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(families.FAMILIES, "qwen2_moe", QWEN2_MOE)
    folder = make_family(family, tmp_path / family, **changes)
    randomize_vectors(folder)
    source = open_source(folder)
    linears = source.architecture.linears
    groups = smoothing_groups(source, linears, select(linears, AWQ, misfit_of(128)).quantized)
    counts: dict[str, int] = {}
    for group in groups:
        last = group.source.rpartition(".")[2]
        counts[last] = counts.get(last, 0) + 1
    assert counts == kinds

    scale_at_random(monkeypatch)
    tensors = smoothed(source)
    changed = tmp_path / "smoothed"
    changed.mkdir()
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    (changed / "config.json").write_bytes((folder / "config.json").read_bytes())
    before, after = logits(folder), logits(changed)
    assert (after - before).abs().max() < 2e-5 * before.abs().max()
    for group in groups:  # and it was not left alone
        old = source.checkpoint.read(whole(source.checkpoint.tensors[group.readers[0].weight])).float()
        assert not torch.allclose(tensors[group.readers[0].weight], old, rtol=0.1)


def randomize_vectors(folder: Path) -> None:
    """Norms are ones and biases zeros in a fresh model, where a wrong offset or a forgotten bias would not show."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if tensor.dim() == 1 and tensor.dtype == torch.bfloat16:
            tensors[name] = (tensor + 0.3 * torch.randn(tensor.shape, generator=generator)).bfloat16()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


def groups_of(source: Source) -> dict[str, SmoothingGroup]:
    linears = source.architecture.linears
    return {g.source: g for g in smoothing_groups(source, linears, select(linears, AWQ, misfit_of(128)).quantized)}


def test_the_router_is_among_the_readers_of_its_norm(demo: Source) -> None:
    group = groups_of(demo)["model.layers.0.post_attention_layernorm"]
    names = {reader.name.removeprefix("model.layers.0.block_sparse_moe.") for reader in group.readers}
    assert names == {"gate"} | {f"experts.{i}.{w}" for i in range(8) for w in ("w1", "w3")}


def test_a_norm_that_something_else_reads_is_left_alone(demo: Source) -> None:
    norms = tuple(
        replace(n, exact=n.weight != "model.layers.0.input_layernorm.weight") for n in demo.architecture.norms
    )
    source = Source(demo.checkpoint, replace(demo.architecture, norms=norms))
    assert groups_of(demo).keys() - groups_of(source).keys() == {"model.layers.0.input_layernorm"}
    plan = EXPORTER.plan(source, AWQ, None)
    assert any("model.layers.0.input_layernorm.weight" in note for note in plan.notes)
    encodings = {t.name: t.encoding for t in plan.tensors}
    assert encodings["model.layers.0.input_layernorm.weight"] == "copy"
    assert encodings["model.layers.0.self_attn.q_proj.qweight"] == QUANTIZED


def test_a_norm_with_a_reader_that_cannot_be_rescaled_is_left_alone(demo: Source) -> None:
    gate = "model.layers.0.block_sparse_moe.gate"
    linears = tuple(linear for linear in demo.architecture.linears if linear.name != gate)
    source = Source(demo.checkpoint, replace(demo.architecture, linears=linears))
    assert "model.layers.0.post_attention_layernorm" not in groups_of(source)


@pytest.mark.parametrize(("field", "lost"), [("swiglu_limit", "up_proj"), ("clip_qkv", "v_proj")])
def test_a_clamp_between_two_projections_stops_a_scale(field: str, lost: str, tmp_path: Path) -> None:
    source = open_source(make_family("llama", tmp_path / "llama", num_key_value_heads=4))
    clamped = replace(source.checkpoint, config={**source.checkpoint.config, field: 7.0})
    gone = groups_of(source).keys() - groups_of(Source(clamped, source.architecture)).keys()
    assert {name.rpartition(".")[2] for name in gone} == {lost}


def test_shared_value_heads_are_not_smoothed(tmp_path: Path) -> None:
    assert not any("v_proj" in name for name in groups_of(open_source(make_family("llama", tmp_path / "llama"))))


def test_sizes_that_a_group_does_not_divide_are_kept_or_refused(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path / "llama", hidden_size=192, head_dim=48)
    source = open_source(folder)
    selection = select(source.architecture.linears, AWQ, misfit_of(128))
    assert selection.quantized == {f"model.layers.{i}.mlp.down_proj" for i in (0, 1)}
    (note,) = [note for note in selection.notes if "128 does not divide its input channels" in note]
    assert "model.layers.*.self_attn.q_proj (2)" in note
    assert len(select(source.architecture.linears, AWQ, misfit_of(64)).quantized) == 14
    with pytest.raises(SixfoldError, match=r"mlp.gate_proj is 512 x 192.*indivisible: keep"):
        EXPORTER.plan(source, AWQ.model_copy(update={"indivisible": "fail"}), None)


def test_what_engines_treat_as_one_is_kept_as_one(demo: Source) -> None:
    kept = AWQ.model_copy(update={"keep": (r"layers\.0\.self_attn\.k_proj", r"layers\.1\..*experts\.3\.w2")})
    selection = select(demo.architecture.linears, kept, misfit_of(128))
    plain = select(demo.architecture.linears, AWQ, misfit_of(128))
    lost = plain.quantized - selection.quantized
    attention = {f"model.layers.0.self_attn.{n}_proj" for n in "qkv"}
    experts = {f"model.layers.1.block_sparse_moe.experts.{i}.{w}" for i in range(8) for w in ("w1", "w2", "w3")}
    assert lost == attention | experts
    assert [note.partition(":")[0] for note in selection.notes] == [
        "in BF16 (never quantized)",
        "in BF16 (kept by the recipe)",
        "in BF16 (engines load it together with one that is kept)",
    ]
