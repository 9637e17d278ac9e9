"""ModelOpt's configs, read as its readers read them: fnmatch in TensorRT-LLM; names, substrings and fnmatch in vLLM;
and a mix's module by module."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

from exporters.formats.modelopt import (
    QUANT_ALGOS,
    exclude_modules,
    hf_quant_config,
    mixed_texts,
    quantization_config,
)
from exporters.selection import select
from sixfold.model.architecture import Linear
from sixfold.model.source import open_source
from tests.exporters.exported import DEMO, recipe
from tests.families import make_family

FUSED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "q_proj": "qkv_proj", "k_proj": "qkv_proj"}


def excluded_by_vllm(name: str, entries: list[str]) -> bool:
    return any(entry == name or entry in name or fnmatch(name, entry) for entry in entries)


def excluded_by_tensorrt_llm(name: str, entries: list[str]) -> bool:
    return any(fnmatch(name, entry) for entry in entries)


def engine_names(linear: Linear) -> list[str]:
    """Modules that engines decide about: a layer's experts are one, siblings are fused."""
    if linear.expert is not None:
        return [linear.name.split(".experts.")[0] + ".experts", linear.module]
    last = linear.name.rpartition(".")[2]
    return [linear.name, linear.module, linear.name.removesuffix(last) + FUSED.get(last, last)]


@pytest.mark.parametrize("family", ["minimax_m2", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama"])
def test_what_is_excluded_is_what_is_in_bf16(family: str, tmp_path: Path) -> None:
    architecture = open_source(make_family(family, tmp_path / family)).architecture
    made = recipe("nvfp4", "NVFP4", keep=(r"layers\.1\.self_attn\.o_proj",))
    quantized = select(architecture.linears, made, lambda _: "").quantized
    entries = exclude_modules(architecture, quantized)
    for linear in architecture.linears:
        for name in engine_names(linear):
            kept = linear.name not in quantized
            assert excluded_by_vllm(name, entries) == kept, name
            assert excluded_by_tensorrt_llm(name, entries) == kept, name


def test_experts_of_one_layer_are_excluded_as_one_module() -> None:
    architecture = open_source(DEMO).architecture
    made = recipe("nvfp4", "NVFP4", keep=(r"layers\.1\.block_sparse_moe",))
    entries = exclude_modules(architecture, select(architecture.linears, made, lambda _: "").quantized)
    for name in ("model.layers.1.block_sparse_moe.experts", "model.layers.1.mlp.experts.0.w1"):
        assert excluded_by_vllm(name, entries)
        assert excluded_by_tensorrt_llm(name, entries)
    assert not excluded_by_vllm("model.layers.0.block_sparse_moe.experts", entries)
    assert not excluded_by_vllm("model.layers.11.block_sparse_moe.experts", entries)


@pytest.mark.parametrize("scheme", QUANT_ALGOS)
def test_both_files_say_the_same_in_the_forms_readers_ask_for(scheme: str) -> None:
    inline, separate = quantization_config(scheme, ["lm_head"]), hf_quant_config(scheme, ["lm_head"])["quantization"]
    assert inline["quant_method"] == "modelopt"  # by which vLLM, SGLang and TensorRT-LLM know the format
    assert inline["quant_algo"] == separate["quant_algo"]
    assert inline["ignore"] == separate["exclude_modules"] == ["lm_head"]
    (group,) = inline["config_groups"].values()
    assert group["targets"] == ["Linear"]
    if "NVFP4" in scheme:  # vLLM refuses an NVFP4 file without these three
        assert separate["group_size"] == group["weights"]["group_size"] == 16
        assert separate["kv_cache_quant_algo"] is None
    assert ("input_activations" in group) == (scheme != "NVFP4A16")


PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def algorithm_in_vllm(name: str, quantized: Mapping[str, Mapping[str, str]], excluded: list[str]) -> str | None:
    """As ModelOptMixedPrecisionConfig finds it: what is excluded first; the name; the parts of a fused module, which
    must agree; anything below the name; and for experts anything beside them."""
    if excluded_by_vllm(name, excluded):
        return None
    if name in quantized:
        return quantized[name]["quant_algo"]
    above, _, last = name.rpartition(".")
    parts = {
        quantized[f"{above}.{part}"]["quant_algo"] for part in PACKED.get(last, ()) if f"{above}.{part}" in quantized
    }
    assert len(parts) <= 1, name
    below = [info["quant_algo"] for key, info in quantized.items() if key.startswith(f"{name}.")]
    beside = [info["quant_algo"] for key, info in quantized.items() if key.startswith(f"{above}.")]
    return next(iter([*parts, *below, *(beside if last == "experts" else [])]), None)


def mix(linear: Linear) -> str | None:
    """FP8 for attention in the second layer and experts in the first; output projections stay as they are."""
    if not linear.quantizable or linear.part == "o_proj" or linear.name.endswith("o_proj"):
        return None
    eight = linear.layer == (0 if linear.expert is not None else 1)
    return "FP8" if eight else "NVFP4A16"


@pytest.mark.parametrize("family", ["minimax_m2", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama"])
def test_a_mix_names_the_algorithm_of_every_module_that_engines_ask_for(family: str, tmp_path: Path) -> None:
    source = open_source(make_family(family, tmp_path / family))
    chosen = {linear.name: kind for linear in source.architecture.linears if (kind := mix(linear)) is not None}
    written = mixed_texts(source, chosen)
    inline = json.loads(written["config.json"])["quantization_config"]
    separate = json.loads(written["hf_quant_config.json"])["quantization"]
    assert inline["quant_algo"] == separate["quant_algo"] == "MIXED_PRECISION"
    assert inline["quantized_layers"] == separate["quantized_layers"]
    assert inline["ignore"] == separate["exclude_modules"]
    for linear in source.architecture.linears:
        expected = None if linear.name not in chosen else QUANT_ALGOS[chosen[linear.name]]
        for name in engine_names(linear):
            assert algorithm_in_vllm(name, inline["quantized_layers"], inline["ignore"]) == expected, name


def test_a_mix_is_stated_as_in_nvidias_releases() -> None:
    """Of nvidia/Qwen3.6-35B-A3B-NVFP4's config.json: the keys, an entry of each kind, a group for each algorithm."""
    source = open_source(DEMO)
    chosen = {linear.name: kind for linear in source.architecture.linears if (kind := mix(linear)) is not None}
    inline = json.loads(mixed_texts(source, chosen)["config.json"])["quantization_config"]
    assert set(inline) == {"config_groups", "quantized_layers", "ignore", "quant_algo", "producer", "quant_method"}
    layers = inline["quantized_layers"]
    assert layers["model.layers.1.mlp.experts"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}
    assert layers["model.layers.1.self_attn.q_proj"] == {"quant_algo": "FP8"}
    groups = {group["weights"]["num_bits"]: group for group in inline["config_groups"].values()}
    fixed = {"dynamic": False, "num_bits": 8, "type": "float"}
    assert {key: groups[8][key] for key in ("input_activations", "weights")} == {
        "input_activations": fixed,
        "weights": fixed,
    }
    assert "input_activations" not in groups[4]
    assert sorted(name for group in groups.values() for name in group["targets"]) == sorted(layers)


def test_a_mix_of_one_type_is_none() -> None:
    source = open_source(DEMO)
    chosen = {linear.name: "NVFP4A16" for linear in source.architecture.linears if linear.quantizable}
    assert (
        json.loads(mixed_texts(source, chosen)["hf_quant_config.json"])["quantization"]["quant_algo"] == "W4A16_NVFP4"
    )
