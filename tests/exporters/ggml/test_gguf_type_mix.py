"""The mix of types of every preset, held against llama.cpp's own `llama_model_quantize`."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from exporters.ggml.header.hyperparameters import as_stated, write_hyperparameters
from exporters.ggml.header.metadata import file_type
from exporters.ggml.type_mix import PRESETS, Shape, file_order, tensor_types
from sixfold.model.gguf.architectures import GGUF_ARCHITECTURES
from sixfold.model.meta_model import completed
from tests.exporters.ggml.llama_cpp import run

# Sizes that the mix depends on, and nothing else: real layer counts with matrices of two rows.
MODELS: dict[str, dict[str, Any]] = {
    "dense, 32 layers": {"model_type": "llama", "num_hidden_layers": 32, "heads": 32, "kv": 32},
    "dense, grouped queries, tied": {"model_type": "qwen3", "num_hidden_layers": 28, "heads": 16, "kv": 8},
    "70B": {"model_type": "llama", "num_hidden_layers": 80, "heads": 64, "kv": 8},
    "72B": {"model_type": "qwen2", "num_hidden_layers": 80, "heads": 64, "kv": 8},
    "eight experts": {"model_type": "mixtral", "num_hidden_layers": 32, "heads": 32, "kv": 8, "experts": 8},
    "four experts": {"model_type": "mixtral", "num_hidden_layers": 17, "heads": 4, "kv": 2, "experts": 4},
    "154 experts": {"model_type": "minimax_m2", "num_hidden_layers": 62, "heads": 48, "kv": 8, "experts": 154},
    "128 experts": {"model_type": "qwen3_moe", "num_hidden_layers": 48, "heads": 32, "kv": 4, "experts": 128},
    "latent attention": {"model_type": "deepseek_v3", "num_hidden_layers": 61, "heads": 128, "kv": 128, "experts": 256},
    "rows of 96": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 9,
        "heads": 4,
        "kv": 2,
        "experts": 16,
        "columns": 96,
    },
    "rows of 40": {"model_type": "llama", "num_hidden_layers": 5, "heads": 4, "kv": 4, "columns": 40},
}
ATTENTION = {"attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_output": 1}
LATENT = {"attn_q_a": 1, "attn_q_b": 1, "attn_kv_a_mqa": 1, "attn_k_b": 2, "attn_v_b": 2, "attn_output": 1}


def shapes_of(case: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    columns = case.get("columns", 256)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (2, columns), "output_norm.weight": (columns,)}
    if case["model_type"] != "qwen3":
        shapes["output.weight"] = (2, columns)
    attention = LATENT if case["model_type"] == "deepseek_v3" else ATTENTION
    for layer in range(case["num_hidden_layers"]):
        block = {f"{name}.weight": (2,) * size + (columns,) for name, size in attention.items()}
        block |= {"attn_norm.weight": (columns,), "ffn_norm.weight": (columns,)}
        dense = "experts" not in case or (case["model_type"] == "deepseek_v3" and layer < 3)
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            if dense:
                block[f"{part}.weight"] = (2, columns)
            else:
                block[f"{part}_exps.weight"] = (2, 2, columns)
                if case["model_type"] == "deepseek_v3":
                    block[f"{part}_shexp.weight"] = (2, columns)
        if not dense:
            block |= {"ffn_gate_inp.weight": (2, columns), "exp_probs_b.bias": (2,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def config_of(case: dict[str, Any]) -> dict[str, Any]:
    stated = {
        "model_type": case["model_type"],
        "num_hidden_layers": case["num_hidden_layers"],
        "num_attention_heads": case["heads"],
        "num_key_value_heads": case["kv"],
        "hidden_size": case["heads"] * 16,
    }
    if "experts" in case:
        key = {"deepseek_v3": "n_routed_experts", "qwen3_moe": "num_experts"}.get(
            case["model_type"], "num_local_experts"
        )
        stated[key] = case["experts"]
    return completed(stated)


@pytest.mark.parametrize("name", MODELS)
def test_types_are_those_of_llama_quantize(name: str, tmp_path: Path) -> None:
    case = MODELS[name]
    arch, config, shapes = GGUF_ARCHITECTURES[case["model_type"]], config_of(case), shapes_of(case)
    source = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(source, arch)
    write_hyperparameters(writer, arch, config)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    for tensor, shape in shapes.items():
        writer.add_tensor(tensor, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = as_stated(arch, config)
    shape = Shape(arch, case["num_hidden_layers"], case["heads"], model["num_key_value_heads"], case.get("experts", 0))
    cases = [(preset, weighted) for preset in PRESETS for weighted in (True, False)]
    jobs = [{"do": "types", "source": source, "ftype": int(file_type(p)), "weighted": w} for p, w in cases]
    for (preset, weighted), theirs in zip(cases, run(jobs), strict=True):
        ours = tensor_types(shapes, preset, shape, importance=weighted)
        assert [[n, choice.qtype.name.upper()] for n, choice in ours.items()] == theirs, (preset, weighted)


def test_tensors_with_a_type_by_hand_do_not_count() -> None:
    """The n-th attention value decides its bits; one kept by hand does not move the others on (as --tensor-type)."""
    shapes: dict[str, tuple[int, ...]] = {f"blk.{i}.attn_v.weight": (2, 256) for i in range(4)}
    model = Shape("llama", 4, 8, 8, 0)
    kept = {"blk.0.attn_v.weight": gguf.GGMLQuantizationType.BF16}
    found = tensor_types(shapes, "Q3_K_M", model, importance=True, kept=kept)
    assert [found[name].qtype.name for name in file_order(shapes)] == ["BF16", "Q5_K", "Q5_K", "Q4_K"]


def test_fallbacks_say_what_was_wanted() -> None:
    shapes: dict[str, tuple[int, ...]] = {"blk.0.attn_q.weight": (2, 96), "blk.0.attn_k.weight": (2, 40)}
    found = tensor_types(shapes, "Q4_K_M", Shape("llama", 1, 4, 4, 0), importance=True)
    assert (found["blk.0.attn_q.weight"].qtype.name, found["blk.0.attn_q.weight"].wanted) == (
        "Q5_0",
        gguf.GGMLQuantizationType.Q4_K,
    )
    assert found["blk.0.attn_k.weight"].qtype.name == "F16"
