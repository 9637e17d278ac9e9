"""vLLM 0.32 for CPUs reads our folders as our reader does; and, where it has no CPU kernel, takes every tensor.

It runs in BF16, whose noise is what is left between its logits and ours; the scheme's own distance from the source is
far larger, and the same for both.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.texts.held_out_text import held_out
from tests.engines.dense_model import dense_model
from tests.engines.reader import divergence, reader_logits
from tests.engines.vllm_cpu.vllm_environment import run_script
from tests.exporters.exported import DEMO
from tests.verification.artifacts import Artifacts, make_all

pytestmark = pytest.mark.engines

LENGTH, WINDOWS = 128, 4
KL = {"bf16": 1e-3, "fp8": 2e-2, "awq": 1e-3, "awq-packed": 1e-3}
"""Largest mean KL of vLLM's logits from ours. Inputs in BF16 round to other FP8 values than those in float32 do: there
the distance from the source is what agrees."""
KV_CACHE = (".attn.q_scale", ".attn.k_scale", ".attn.v_scale", ".attn.prob_scale", "_zero_point")
"""Ends of parameters of a quantized KV cache, which folders need not have and ours have not."""

UNREAD = {
    "nvfp4": (*KV_CACHE, "input_global_scale"),
    "nvfp4-auto": (*KV_CACHE, "input_global_scale"),
    "nvfp4a16-modelopt": (*KV_CACHE, "input_scale"),
    "nvfp4-auto-modelopt": (
        *KV_CACHE,
        "experts.routed_experts.w13_input_scale",
        "experts.routed_experts.w2_input_scale",
    ),
    "fp8-cache": (".attn.q_scale", ".attn.prob_scale", "_zero_point"),
    "nvfp4-auto-modelopt-cache": (
        ".attn.q_scale",
        ".attn.prob_scale",
        "_zero_point",
        "experts.routed_experts.w13_input_scale",
        "experts.routed_experts.w2_input_scale",
    ),
}
"""vLLM makes input scales for every NVFP4 Linear, and reads none of a weight-only scheme."""

SHARED = {"fp8-modelopt": "w13_input_scale"}
"""Of gate and up, which read the same inputs, vLLM keeps one: whichever comes last, and ours are equal."""

EXPERTS = (
    "bf16",
    "fp8",
    "fp8-block",
    "nvfp4",
    "nvfp4-auto",
    "nvfp4-gb10",
    "awq",
    "fp8-modelopt",
    "nvfp4-modelopt",
    "nvfp4a16-modelopt",
    "nvfp4-auto-modelopt",
    "fp8-cache",
    "nvfp4-auto-modelopt-cache",
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Artifacts]:
    folder = tmp_path_factory.mktemp("dense")
    recipes = ("bf16", "fp8", "awq", "awq-packed")
    return open_source(dense_model(folder / "model")), make_all(folder / "model", folder, recipes)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return make_all(DEMO, tmp_path_factory.mktemp("experts"), EXPERTS)


@pytest.mark.parametrize("recipe", ["bf16", "fp8", "awq", "awq-packed"])
def test_dense_models_score_as_our_reader_does(
    recipe: str, dense: tuple[Source, Artifacts], python: Path, tmp_path: Path
) -> None:
    source, artifacts = dense
    ids = torch.stack([window[:LENGTH] for window in held_out(load_tokenizer(DEMO)).ids[:WINDOWS]])
    np.save(tmp_path / "ids.npy", ids.numpy())
    run_script(python, "vllm_score.py", artifacts[recipe], tmp_path / "ids.npy", tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    theirs, generated = torch.from_numpy(found["logprobs"]), torch.from_numpy(found["tokens"])
    engine = "engine" if recipe == "fp8" else "weights"
    ours = reader_logits(artifacts[recipe], source, torch.cat([ids, generated], 1), engine)
    original = reader_logits(artifacts["bf16"], source, ids)
    between = divergence(ours[:, : LENGTH - 1], theirs)
    from_source = divergence(original[:, :-1], ours[:, : LENGTH - 1])
    same = float((ours[:, LENGTH - 1 : -1].argmax(-1) == generated).float().mean())
    engines = divergence(original[:, :-1], theirs)
    line = f"{recipe:11} KL of vLLM from our reader {between:.1e}; from the source: vLLM {engines:.5f},"
    sys.stdout.write(f"{line} our reader {from_source:.5f}; same generated tokens {same:.3f}\n")
    assert between < KL[recipe]
    if recipe != "bf16":
        assert from_source == pytest.approx(engines, rel=0.05)
    assert same > 0.85


@pytest.mark.parametrize("recipe", EXPERTS)
def test_every_tensor_of_experts_is_taken_and_none_is_left_unread(
    recipe: str, experts: Artifacts, python: Path, tmp_path: Path
) -> None:
    run_script(python, "vllm_load.py", tmp_path / "found.json", experts[recipe])
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())[str(experts[recipe])]
    assert found["refused"] == {}
    assert found["swapped"] == []
    assert all(size == written for size, written in found["tensors"].values())
    stored = sum(size for size, _ in found["tensors"].values())
    read = {k: v for k, v in found["parameters"].items() if not k.endswith(UNREAD.get(recipe, KV_CACHE))}
    twice = {k: v[0] if k.endswith(SHARED.get(recipe, "none")) else 0 for k, v in read.items()}
    assert {k: v for k, v in read.items() if v[0] != v[1] or v[2] != twice[k]} == {}
    assert stored == sum(size for size, _, _ in read.values()) + sum(twice.values())


def test_a_missing_scale_leaves_a_parameter_unread(experts: Artifacts, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(experts["nvfp4"], folder)
    missing = "model.layers.1.block_sparse_moe.experts.3.w3.weight_scale"
    file = folder / "model.safetensors"
    tensors = load_file(file)
    size = tensors.pop(missing).numel()
    save_file(tensors, file, {"format": "pt"})
    run_script(python, "vllm_load.py", tmp_path / "found.json", folder)
    found = json.loads((tmp_path / "found.json").read_text())[str(folder)]["parameters"]
    short = {k: v[0] - v[1] for k, v in found.items() if v[0] != v[1] and not k.endswith(UNREAD["nvfp4"])}
    assert short == {"model.layers.1.block_sparse_moe.experts.routed_experts.w13_weight_scale": size}
