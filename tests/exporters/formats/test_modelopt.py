"""ModelOpt's configs, read as its readers read them: fnmatch in TensorRT-LLM; names, substrings and fnmatch in vLLM."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from exporters.formats.modelopt import QUANT_ALGOS, exclude_modules, hf_quant_config, quantization_config
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
