"""NVFP4 of compressed-tensors, with and without quantized inputs."""

from typing import Any

import torch

from tests.verification.corpus.changes import (
    W1,
    W2,
    W3,
    Damage,
    Q,
    bit,
    changed,
    config,
    drop,
    element,
    exchanged,
    put,
    scaled,
    tensors,
)
from tests.verification.damage import EXPERT, MOE, Tensors


def _nibbles(t: Tensors) -> None:
    packed = t[W2 + "weight_packed"]
    t[W2 + "weight_packed"] = (packed << 4) | (packed >> 4)


def _group(found: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = next(iter(found["quantization_config"]["config_groups"].values()))
    return group


def _groups_of_32(found: dict[str, Any]) -> None:
    _group(found)["weights"]["group_size"] = 32


NVFP4 = [
    Damage("global scale not shared", "nvfp4", scaled(W3 + "weight_global_scale", 1.82), W3 + "weight_global_scale"),
    Damage(
        "q/k/v global scale not shared",
        "nvfp4",
        scaled(Q.replace("q_", "k_") + "weight_global_scale", 2.0),
        Q.replace("q_", "k_") + "weight_global_scale",
    ),
    Damage("global scale missing", "nvfp4", drop(W2 + "weight_global_scale"), W2 + "weight_global_scale"),
    Damage(
        "global scale's reciprocal",
        "nvfp4",
        tensors(lambda t: t[W2 + "weight_global_scale"].reciprocal_()),
        W2 + "weight_global_scale",
    ),
    Damage("global scale zero", "nvfp4", element(W2 + "weight_global_scale", (0,), 0.0), W2 + "weight_global_scale"),
    Damage("global scale of another matrix", "nvfp4", scaled(W2 + "weight_global_scale", 1.6), W2 + "weight", False),
    Damage("group scale NaN", "nvfp4", element(W2 + "weight_scale", (3, 3), float("nan")), W2 + "weight_scale"),
    Damage("group scale zero", "nvfp4", element(W2 + "weight_scale", (3, 3), 0.0), W2 + "weight_scale"),
    Damage("group scale's bit flipped", "nvfp4", bit(W2 + "weight_scale", (3, 3), 4), W2 + "weight", False),
    Damage("one code flipped", "nvfp4", bit(W2 + "weight_packed", (7, 9), 2), W2 + "weight", False),
    Damage("nibbles the other way round", "nvfp4", tensors(_nibbles), W2 + "weight", False),
    Damage(
        "half a row",
        "nvfp4",
        changed(W2 + "weight_packed", lambda x: x[:, :64]),
        W2 + "weight_packed",
    ),
    Damage(
        "an input scale where none belongs",
        "nvfp4",
        put(W2 + "input_global_scale", torch.ones(1)),
        W2 + "input_global_scale",
    ),
    Damage("input scale missing", "nvfp4-gb10", drop(W2 + "input_global_scale"), W2 + "input_global_scale"),
    Damage("input scale zero", "nvfp4-gb10", element(W2 + "input_global_scale", (0,), 0.0), W2 + "input_global_scale"),
    Damage(
        "input scale infinite",
        "nvfp4-gb10",
        element(W2 + "input_global_scale", (0,), float("inf")),
        W2 + "input_global_scale",
    ),
    Damage("input scale far off", "nvfp4-gb10", scaled(W2 + "input_global_scale", 1e6), W2 + "input_global_scale"),
    Damage(
        "input scale of gate and up differ",
        "nvfp4-gb10",
        scaled(W3 + "input_global_scale", 1.5),
        W3 + "input_global_scale",
    ),
    Damage(
        "scheme called W4A16",
        "nvfp4-gb10",
        config(lambda c: c["quantization_config"]["config_groups"]["NVFP4"].update(input_activations=None)),
        "input_global_scale",
    ),
    Damage(
        "experts permuted",
        "nvfp4",
        exchanged(MOE.format(1) + "experts.0.", MOE.format(1) + "experts.7."),
        EXPERT.format(1, 0, "w2") + "weight",
        False,
    ),
    Damage("a group scale's lowest bit flipped", "nvfp4", bit(W2 + "weight_scale", (3, 3), 0), W2 + "weight", False),
    Damage("global scale a hundredth off", "nvfp4", scaled(W2 + "weight_global_scale", 1.01), W2 + "weight", False),
    Damage(
        "group scales of gate and up exchanged",
        "nvfp4",
        exchanged(W1 + "weight_scale", W3 + "weight_scale"),
        W1 + "weight",
        False,
    ),
    Damage(
        "input scale's reciprocal",
        "nvfp4-gb10",
        tensors(lambda t: t[W2 + "input_global_scale"].reciprocal_()),
        W2 + "input_global_scale",
    ),
    Damage("input scale negative", "nvfp4-gb10", scaled(W2 + "input_global_scale", -1), W2 + "input_global_scale"),
    Damage("groups of 32 declared", "nvfp4", config(_groups_of_32), "weight"),
    Damage(
        "only attention targeted",
        "nvfp4",
        config(lambda c: _group(c).update(targets=["re:.*self_attn.*"])),
        W2[:-1],
    ),
]
