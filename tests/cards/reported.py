"""A model's output folder with variants of real sizes, for the report: weights are holes, all else is written."""

import os
from pathlib import Path
from typing import Any

from sixfold.statistics.statistics import SCHEMA
from tests.cards.model_folder import finding, manifest, put, result, source, write

CONFIG = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_hidden_layers": 48,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
"""Of Qwen3-30B-A3B: 98,304 bytes of KV cache for a token in 16 bits."""
GB = 10**9
SIZES = {
    "BF16": 61 * GB,
    "FP8": 31 * GB,
    "NVFP4": 18 * GB,
    "Q8_0": 32 * GB,
    "Q4_K_M": 18_500_000_000,
    "Q3_K_M": 14 * GB,
}
KL = {"BF16": 0.0, "FP8": 0.012, "NVFP4": 0.06, "Q8_0": 0.003, "Q4_K_M": 0.03}
"""Q3_K_M was not verified, and NVFP4 failed its gate."""


def model_folder(root: Path) -> Path:
    source(root, base_model="someone/Original", license="mit", method="pruned <by hand>")
    write(root / "source/config.json", CONFIG)
    for label, nbytes in SIZES.items():
        gguf = label.startswith("Q")
        suffix, weights = ("GGUF", f"Tiny-{label}.gguf") if gguf else (label, "model.safetensors")
        content = manifest(suffix, label if gguf else "", files={weights: nbytes})
        content["recipe"]["gates"] = {"max_mean_kl": 0.05, "min_top1": None}
        if label == "FP8":
            content["recipe"]["hardware"] = ["NVIDIA Ada", "NVIDIA Hopper", "NVIDIA Blackwell"]
        verdict = None if label == "Q3_K_M" else verified(label, content)
        config = {"quantization_config": {"quant_method": "compressed-tensors"}} if label in ("FP8", "NVFP4") else {}
        folder = put(root, content, verdict, **CONFIG, **config)
        (folder / weights).touch()
        os.truncate(folder / weights, nbytes)
    write(root / "calibration/manifest.json", calibration())
    return root


def verified(label: str, content: dict[str, Any]) -> dict[str, Any]:
    kl = KL[label]
    score = {
        "mean_kl": kl, "median_kl": kl / 4, "p99_kl": kl * 20, "max_kl": kl * 90, "top1": 1 - kl, "top5": 1 - kl,
        "perplexity": 8 + kl, "source_perplexity": 8.0, "domains": {"code": kl / 2, "maths": kl * 2},
        "layers": [kl / 3, kl / 2, kl],
    }  # fmt: skip
    found = [finding("mean KL 0.06 is over the 0.05 that the recipe allows", "error")] if label == "NVFP4" else []
    written = result(content, findings=found, gates=content["recipe"]["gates"], allowed=content["recipe"]["gates"])
    written["divergence"]["scores"] = {"weights": {**score, "mean_kl": kl / 2}, "engine": score}
    return written


def calibration() -> dict[str, Any]:
    layers = [{"layer": n, "tokens": [500, 90 + n, 0, 7], "unreached": [2], "few": [3]} for n in range(3)]
    return {
        "schema": SCHEMA,
        "files": {},
        "profile": {"min_tokens": 32},
        "tokens": {
            "samples": 64,
            "length": 512,
            "domains": {"code": {"samples": 40}, "maths": {"samples": 24}},
            "files": {"builtin/code/a.txt": {"tokens": 1024, "rows": 2, "license": "MIT", "overlap": {}}},
        },
        "coverage": layers,
    }
