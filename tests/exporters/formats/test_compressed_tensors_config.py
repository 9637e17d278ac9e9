"""The `ignore` list under compressed-tensors' own matching, and the rest of the config against llmcompressor's."""

import json
from pathlib import Path

import pytest
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import match_name

from exporters.formats.compressed_tensors import SCHEMES, ignore_list, mixed_texts, quantization_config
from exporters.selection import select
from sixfold.model.architecture import Architecture
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Recipe
from tests.exporters.exported import DEMO, recipe
from tests.exporters.library_oracle import model_free, written_config
from tests.families import make_family

FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
}
"""vLLM's `packed_modules_mapping`."""


def ignored(architecture: Architecture, made: Recipe) -> tuple[list[str], frozenset[str]]:
    quantized = select(architecture.linears, made, lambda _: "").quantized
    return ignore_list(architecture, quantized), quantized


def matches(name: str, entries: list[str]) -> bool:
    return any(match_name(name, entry) for entry in entries)


@pytest.mark.parametrize("scheme", ["FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16"])
def test_config_equals_model_free_ptqs(scheme: str, tmp_path: Path) -> None:
    model_free(DEMO, tmp_path, scheme, ["lm_head"])
    assert quantization_config(scheme, ["lm_head"]) == written_config(tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compressed_tensors_reads_the_config(scheme: str) -> None:
    config = {k: v for k, v in quantization_config(scheme, ["lm_head"]).items() if k != "version"}
    parsed = QuantizationConfig.model_validate(config)
    (group,) = parsed.config_groups.values()
    assert (group.input_activations is None) == scheme.endswith("A16")
    assert parsed.quantization_status == "compressed"


@pytest.mark.parametrize("family", ["minimax_m2", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama", "qwen3"])
def test_ignore_matches_all_that_is_kept_and_nothing_else(family: str, tmp_path: Path) -> None:
    source = open_source(make_family(family, tmp_path / family))
    entries, quantized = ignored(source.architecture, recipe("nvfp4", "NVFP4A16"))
    assert matches("lm_head", entries)
    for linear in source.architecture.linears:
        names = [linear.name] if linear.expert is not None else [linear.name, linear.module]
        for name in names:
            for alias in (name, name.replace(".block_sparse_moe.", ".mlp.")):
                assert matches(alias, entries) == (linear.name not in quantized), alias


def test_routers_are_matched_under_the_names_of_transformers_and_of_vllm() -> None:
    entries, _ = ignored(open_source(DEMO).architecture, recipe("nvfp4", "NVFP4A16"))
    for layer in range(2):
        assert matches(f"model.layers.{layer}.mlp.gate", entries)
        assert matches(f"model.layers.{layer}.block_sparse_moe.gate", entries)
        # what an engine calls fused and expert weights must not be hit by the router's name
        for name in (
            "mlp.gate_up_proj",
            "mlp.gate_proj",
            "mlp.experts",
            "mlp.experts.0.gate_proj",
            "self_attn.qkv_proj",
        ):
            assert not any(match_name(f"model.layers.{layer}.{name}", entry, FUSED) for entry in entries), name


def test_kept_experts_are_matched_as_one_module_in_their_layer_only() -> None:
    made = recipe("nvfp4", "NVFP4A16", keep=(r"layers\.1\.block_sparse_moe\.experts\.0\.w1$",))
    entries, quantized = ignored(open_source(DEMO).architecture, made)
    assert not any(name.startswith("model.layers.1.block_sparse_moe") for name in quantized)
    for block in ("mlp", "block_sparse_moe"):
        for name in ("experts", "experts.0.gate_proj", "experts.7.w2"):  # vLLM asks for its own names of expert 0
            assert matches(f"model.layers.1.{block}.{name}", entries)
            assert not matches(f"model.layers.0.{block}.{name}", entries)
            assert not matches(f"model.layers.10.{block}.{name}", entries)


def test_kept_attention_is_matched_fused_as_well() -> None:
    made = recipe("nvfp4", "NVFP4A16", keep=(r"layers\.0\.self_attn\.k_proj",))
    entries, _ = ignored(open_source(DEMO).architecture, made)
    for shard in FUSED["qkv_proj"]:
        assert matches(f"model.layers.0.self_attn.{shard}", entries)
    assert any(match_name("model.layers.0.self_attn.qkv_proj", entry, FUSED) for entry in entries)
    assert not any(match_name("model.layers.1.self_attn.qkv_proj", entry, FUSED) for entry in entries)


def test_layers_that_transformers_does_not_run_are_ignored_whole() -> None:
    architecture = open_source(DEMO).architecture
    extra = tuple(f"model.layers.2.{name}" for name in ("eh_proj.weight", "enorm.weight", "self_attn.q_proj.weight"))
    made = recipe("nvfp4", "NVFP4A16")
    with_mtp = Architecture(**{**vars(architecture), "not_run": extra})
    entries, _ = ignored(with_mtp, made)
    assert matches("model.layers.2.mtp_block.self_attn.q_proj", entries)
    assert matches("model.layers.2.eh_proj", entries)
    assert not matches("model.layers.20.self_attn.q_proj", entries)


@pytest.mark.parametrize("family", ["minimax_m2", "qwen3_moe", "deepseek_v3"])
def test_every_module_of_a_mix_is_matched_by_its_own_group_alone(family: str, tmp_path: Path) -> None:
    """Under the names that transformers and vLLM know it by, alone and fused, and never by its class."""
    source = open_source(make_family(family, tmp_path / family))
    quantized = select(source.architecture.linears, recipe("nvfp4", "NVFP4A16"), lambda _: "").quantized
    last = source.architecture.layers - 1
    schemes = {
        linear.name: "FP8_DYNAMIC" if (linear.layer == last) == (linear.expert is not None) else "NVFP4A16"
        for linear in source.architecture.linears
        if linear.name in quantized
    }
    config = json.loads(mixed_texts(source, SCHEMES, schemes)["config.json"])["quantization_config"]
    parsed = QuantizationConfig.model_validate({k: v for k, v in config.items() if k != "version"})
    assert parsed.format == "mixed-precision"
    assert {group.format for group in parsed.config_groups.values()} == {"nvfp4-pack-quantized", "float-quantized"}
    for linear in source.architecture.linears:
        names = [linear.name] if linear.expert is not None else [linear.name, linear.module]
        for name in names:
            for alias in (name, name.replace(".block_sparse_moe.", ".mlp.")):
                found = [scheme for scheme, group in parsed.config_groups.items() if matches(alias, group.targets)]
                assert found == ([schemes[linear.name]] if linear.name in quantized else []), alias
                assert matches(alias, parsed.ignore) == (linear.name not in quantized), alias
