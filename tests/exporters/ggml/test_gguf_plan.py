"""What the exporter plans from headers alone, what it says of it, and what it refuses."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from exporters.gguf import EXPORTER
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.gguf.architectures import GGUF_ARCHITECTURES, architecture_named, gguf_architecture
from sixfold.model.gguf.tensor_names import gguf_tensor_names
from sixfold.model.meta_model import completed
from sixfold.model.source import open_source
from tests import every_family
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    keys_of,
    random_statistics,
    recipe,
    save_tokenizer,
    tensors_of,
)
from tests.families import make_family

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
DBRX_EXPERTS = {"hidden_size": 256, "ffn_hidden_size": 256, "moe_num_experts": 4, "moe_top_k": 2}


def family(model_type: str, folder: Path, **changes: Any) -> Path:
    make_family(model_type, folder, **changes)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    return folder


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    parsed = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({k: v for k, v in parsed.items() if v is not None}))


@pytest.mark.parametrize("scheme", ["Q4_K_M", "IQ4_XS", "Q8_0"])
def test_planned_bytes_are_written_bytes_with_and_without_statistics(scheme: str, tmp_path: Path) -> None:
    source = open_source(DEMO)
    statistics = random_statistics(source, tmp_path / "statistics")
    dry = EXPORTER.plan(source, recipe(scheme), None)
    plan, file = export(source, recipe(scheme), tmp_path, statistics)
    assert plan == dry
    assert file.name == f"minimax-m2-4.6m-{scheme}.gguf"
    assert plan.manifest == f"{file.name}.manifest.json"
    assert file.stat().st_size == plan.files[0].nbytes
    data, stored = file.read_bytes(), tensors_of(file)
    assert data.startswith(plan.files[0].header)
    for tensor in plan.tensors:
        qtype, shape, content = stored[tensor.name]
        assert (tensor.dtype, tensor.shape) == (qtype, shape[::-1])
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == content
        assert tensor.offset % 32 == 0


def test_units_cover_every_byte_once_and_read_one_expert_at_a_time() -> None:
    plan = EXPORTER.plan(open_source(DEMO), recipe("Q4_K_M"), None)
    covered: dict[str, list[tuple[int, int]]] = {}
    for unit in plan.units:
        assert len({part.name for part in unit.inputs}) == 1
        for out in unit.outputs:
            covered.setdefault(out.name, []).append((out.start, out.start + out.nbytes))
    for tensor in plan.tensors:
        spans = sorted(covered[tensor.name])
        assert spans[0][0] == 0
        assert spans[-1][1] == tensor.nbytes
        assert all(a[1] == b[0] for a, b in pairwise(spans))


def test_calibration_is_needed_where_it_changes_something() -> None:
    assert EXPORTER.needs_statistics(recipe("Q6_K"))
    assert not EXPORTER.needs_statistics(recipe("Q6_K", imatrix=False))
    assert not EXPORTER.needs_statistics(recipe("Q8_0"))
    with pytest.raises(SixfoldError, match="needs the calibration's statistics; run `sixfold calibrate MODEL` first"):
        EXPORTER.decide(open_source(DEMO), recipe("Q6_K"), None, 0)


def test_an_expert_without_tokens_is_noted(tmp_path: Path) -> None:
    source = open_source(DEMO)
    statistics = random_statistics(source, tmp_path)
    decided = EXPORTER.decide(source, recipe("Q6_K"), statistics, 1)
    (note,) = decided.notes
    assert note.startswith("layer 1: fewer than 5 calibration tokens reached experts 7; the average over the layer's")
    found = statistics.site("model.layers.1.block_sparse_moe.experts.*.w2", ("sum_sq", "count"))
    average = found["sum_sq"][:7].double().sum(0) / found["count"][:7].sum()
    importance = decided.tensors["blk.1.ffn_down_exps.weight"]
    assert importance.shape == (8, 256)
    torch.testing.assert_close(importance[7].double(), average, rtol=1e-6, atol=0)


def test_a_minimax_config_as_transformers_saves_it(tmp_path: Path) -> None:
    """No scoring_func and no rotary_dim: llama.cpp would abort and its converter fail."""
    folder = family("minimax_m2", tmp_path / "model", rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5})
    edit(folder, "config.json", scoring_func=None, rotary_dim=None)
    _, file = export(open_source(folder), recipe("BF16"), tmp_path)
    keys = keys_of(file)
    assert keys["minimax-m2.expert_gating_func"] == 2
    assert keys["minimax-m2.rope.dimension_count"] == 32


def test_provenance_is_carried(tmp_path: Path) -> None:
    folder = family("qwen3", tmp_path / "model")
    (folder / "provenance.yaml").write_text(
        "name: Tiny-Coder-REAP\nbase_model: Qwen/Qwen3-8B\nauthors: A\n"
        "license: other\nlicense_name: x\nlicense_link: LICENSE\n"
    )
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "top_p": 0.95}')
    _, file = export(open_source(folder), recipe("BF16"), tmp_path)
    keys = keys_of(file)
    assert file.name == "Tiny-Coder-REAP-BF16.gguf"
    assert keys["general.license"] == "other"
    assert keys["general.license.name"] == "x"
    assert keys["general.license.link"] == "LICENSE"
    assert keys["general.author"] == "A"
    assert keys["general.base_model.0.repo_url"] == "https://huggingface.co/Qwen/Qwen3-8B"
    assert keys["general.sampling.temp"] == pytest.approx(0.6)
    assert (keys["general.sampling.top_k"], keys["general.type"], keys["general.file_type"]) == (20, "model", 32)


def test_fallbacks_latent_attention_and_left_out_layers_are_noted(tmp_path: Path) -> None:
    folder = family("deepseek_v3", tmp_path / "model")
    file = folder / "model.safetensors"
    extra = {"model.layers.2.eh_proj.weight": torch.zeros(4, 4), "model.layers.2.enorm.weight": torch.zeros(4)}
    save_file({**load_file(file), **extra}, file, {"format": "pt"})
    plan = EXPORTER.plan(open_source(folder), recipe("Q4_K_M"), None)
    assert any(n.startswith("Q5_0 instead of Q4_K, which cannot hold rows of 128: blk.0.attn_q_b") for n in plan.notes)
    assert [n for n in plan.notes if n.startswith("rounded without importance")] == [
        "rounded without importance, as llama.cpp does unless told otherwise: output.weight, token_embd.weight"
    ]
    assert any(n.startswith("left out") and n.endswith(": model.layers.2 (2)") for n in plan.notes)
    assert {t.dtype for t in plan.tensors if t.name.endswith("attn_k_b.weight")} == {"Q5_0"}
    with pytest.raises(
        SixfoldError, match=r"rows of 64 do not fit Q4_K in blk.0.attn_k_b.weight; set `indivisible: keep`"
    ):
        EXPORTER.plan(open_source(folder), recipe("Q4_K_M", indivisible="fail"), None)


def test_what_llama_cpp_computes_otherwise_is_noted(tmp_path: Path) -> None:
    folder = family("qwen3_moe", tmp_path / "model", norm_topk_prob=False)
    assert "always renormalizes" in EXPORTER.plan(open_source(folder), recipe("BF16"), None).notes[0]


def test_keep_holds_a_tensor_in_the_source_dtype_and_a_stack_as_a_whole(tmp_path: Path) -> None:
    made = recipe("Q4_K_M", keep=["self_attn.o_proj", r"layers\.0\..*experts\.3\.w2"], imatrix=False)
    plan, file = export(open_source(DEMO), made, tmp_path)
    types = {name: qtype for name, (qtype, _, _) in tensors_of(file).items()}
    assert types["blk.1.attn_output.weight"] == types["blk.0.ffn_down_exps.weight"] == "BF16"
    assert types["blk.1.ffn_down_exps.weight"] != "BF16"
    assert any(note.startswith("kept in the source's precision") for note in plan.notes)


def test_a_license_is_laid_beside_the_file(tmp_path: Path) -> None:
    folder = family("qwen3", tmp_path / "model")
    (folder / "LICENSE").write_text("terms")
    assert EXPORTER.plan(open_source(folder), recipe("BF16"), None).texts == {"LICENSE": b"terms"}


def test_refusals(tmp_path: Path) -> None:
    demo = open_source(DEMO)
    with pytest.raises(UsageError, match="scheme 'Q4' is not a GGUF type; use one of F32, F16, BF16, Q8_0"):
        EXPORTER.plan(demo, recipe("Q4"), None)
    with pytest.raises(
        SixfoldError, match=r"attn_q.weight would be IQ2_S, which is garbage without .*set options.imatrix=true"
    ):
        EXPORTER.plan(demo, recipe("IQ3_XXS", imatrix=False), None)

    folder = family("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    odd = "model.layers.1.mlp.up_proj.weight"
    for bad in (float("inf"), float("nan")):
        weight = tensors[odd].clone()
        weight[3, 5] = bad
        save_file({**tensors, odd: weight}, folder / "model.safetensors", {"format": "pt"})
        for scheme in ("Q4_K_M", "Q8_0"):
            with pytest.raises(SixfoldError, match=f"{odd} has weights that are infinite or not a number"):
                export(open_source(folder), recipe(scheme, imatrix=False), tmp_path)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    edit(folder, "config.json", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(SixfoldError, match="rotary scaling 'dynamic' cannot be written"):
        EXPORTER.plan(open_source(folder), recipe("BF16"), None)


def test_an_unknown_architecture_is_refused_with_where_the_known_ones_are_listed() -> None:
    with pytest.raises(SixfoldError, match=r"no GGUF layout is known for model_type xlstm; docs/families.md lists"):
        gguf_tensor_names({"model_type": "xlstm", "num_hidden_layers": 1}, [])


def test_an_architecture_that_llama_cpp_has_and_no_entry_is_written_of_is_refused_alike() -> None:
    """GPT-J, which gguf-py knows."""
    from exporters.ggml.tensors import gguf_tensors

    with pytest.raises(SixfoldError, match="no GGUF layout is known for model_type gptj"):
        gguf_tensors({"model_type": "gptj", "num_hidden_layers": 1}, {})


def test_a_hole_in_the_experts_is_refused(tmp_path: Path) -> None:
    names = [f"model.layers.0.mlp.experts.{expert}.down_proj.weight" for expert in (0, 2)]
    from exporters.ggml.tensors import gguf_tensors
    from sixfold.checkpoint.checkpoint import SourceTensor

    tensors = {name: SourceTensor(name, "BF16", (4, 4), 32) for name in names}
    config = completed({"model_type": "qwen3_moe", "num_hidden_layers": 1})
    with pytest.raises(SixfoldError, match=r"blk.0.ffn_down_exps.weight has 2 experts, but none with index 1"):
        gguf_tensors(config, tensors)


def test_tokenizers_that_are_refused(tmp_path: Path) -> None:
    folder = family("llama", tmp_path / "model")
    edit(folder, "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(SixfoldError, match=r"unlike any of llama.cpp.*; set options.tokenizer_pre in the recipe"):
        EXPORTER.plan(open_source(folder), recipe("BF16"), None)
    _, file = export(open_source(folder), recipe("BF16", tokenizer_pre="gpt-2"), tmp_path)
    assert keys_of(file)["tokenizer.ggml.pre"] == "gpt-2"
    edit(folder, "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, added_tokens=[])
    with pytest.raises(SixfoldError, match="is a tokenizer of type WordLevel"):
        EXPORTER.plan(open_source(folder), recipe("BF16"), None)
    save_tokenizer(byte_level_tokenizer([], size=600), folder)
    with pytest.raises(SixfoldError, match=r"has token \d+, but the embedding has 512 rows"):
        EXPORTER.plan(open_source(folder), recipe("BF16"), None)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SixfoldError, match=r"there is no tokenizer.json .*save the tokenizer"):
        EXPORTER.plan(open_source(folder), recipe("BF16"), None)


def test_every_supported_family_has_an_entry() -> None:
    from exporters.ggml.header.hyperparameters import ENTRIES

    named = {architecture_named(kind) for kind in CONFIG_MAPPING}
    assert set(GGUF_ARCHITECTURES.values()) <= set(ENTRIES) <= named | {"nemotron_h"}  # of layers without experts


def test_layers_that_llama_cpp_has_no_architecture_for_are_refused() -> None:
    config = {"model_type": "nemotron_h", "layers_block_type": ["linear_attention", "mlp"]}
    assert gguf_architecture(config) == "nemotron_h"
    assert gguf_architecture({"model_type": "nemotron_h", "hybrid_override_pattern": "MEM*E"}) == "nemotron_h_moe"
    with pytest.raises(SixfoldError, match="some layers of this nemotron_h have experts and others one feed-forward"):
        gguf_architecture({**config, "layers_block_type": ["moe", "mlp"]})


def test_granite_4_without_recurrent_layers_is_what_its_forerunners_are() -> None:
    stated = {"model_type": "granitemoehybrid", "layer_types": ["full_attention"]}
    granite = {**stated, "position_embedding_type": "rope"}
    with pytest.raises(SixfoldError, match="attention alone and no rotary positions"):
        gguf_architecture(stated)
    assert gguf_architecture({**granite, "num_experts_per_tok": 2}) == "granitemoe"
    assert gguf_architecture({**granite, "num_experts_per_tok": 0}) == "granite"
    assert gguf_architecture({**granite, "layer_types": ["linear_attention"]}) == "granitehybrid"


def test_a_model_that_sees_is_what_its_decoder_is() -> None:
    assert gguf_architecture({"model_type": "unheard_of", "text_config": {"model_type": "qwen3"}}) == "qwen3"
    with pytest.raises(SixfoldError, match="the prompt of a paligemma sees itself whole"):
        gguf_architecture({"model_type": "paligemma", "text_config": {"model_type": "gemma"}})


def test_a_model_that_llama_cpp_computes_otherwise_is_refused_by_what_it_computes() -> None:
    with pytest.raises(SixfoldError, match="runs SiLU in the feed-forward of a bitnet"):
        gguf_architecture({"model_type": "bitnet"})


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("minimax", {"mlp_alpha_factor": 2.0}, "mlp_alpha_factor: 2.0"),
        ("minimax", {"linear_attn_beta_factor": 0.5}, "linear_attn_beta_factor: 0.5"),
        ("dbrx", {"ffn_config": {**DBRX_EXPERTS, "moe_normalize_expert_weights": None}}, "weights: None"),
        ("phimoe", {"attention_bias": False}, r"loads no phimoe without blk\.0\.attn_output\.bias"),
    ],
)
def test_what_an_architecture_has_no_number_for_is_refused(
    family: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    source = open_source(every_family.make_family(family, tmp_path / "model", **changes))
    with pytest.raises(SixfoldError, match=says):
        EXPORTER.plan(source, recipe("BF16"), None)


def test_a_config_that_keeps_its_numbers_elsewhere_is_refused_by_its_family() -> None:
    with pytest.raises(SixfoldError, match="no GGUF layout is known for model_type florence2"):
        gguf_tensor_names({"model_type": "florence2", "text_config": {"num_hidden_layers": 2}}, [])


@pytest.mark.parametrize("number", [-1, 1 << 40])
def test_a_number_that_a_file_has_no_place_for_is_named(number: int, tmp_path: Path) -> None:
    folder = family("llama", tmp_path / "model")
    edit(folder, "config.json", max_position_embeddings=number)
    with pytest.raises(SixfoldError, match=rf"no place for llama.context_length = {number}"):
        EXPORTER.plan(open_source(folder), recipe("Q8_0"), None)
