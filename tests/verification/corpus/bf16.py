"""Folders that are not quantized."""

import torch

from tests.verification.corpus.changes import (
    BIAS,
    W1,
    W2,
    W3,
    Damage,
    bit,
    changed,
    drop,
    element,
    exchanged,
    put,
    tensors,
)
from tests.verification.damage import EXPERT, LAYER, MOE

BF16 = [
    Damage("a NaN", "bf16", element(W2 + "weight", (3, 3), float("nan")), W2 + "weight"),
    Damage(
        "an infinity in the last layer",
        "bf16",
        element(LAYER.format(1) + "self_attn.o_proj.weight", (0, 0), float("inf")),
        LAYER.format(1) + "self_attn.o_proj.weight",
    ),
    Damage("an expert of zeros", "bf16", tensors(lambda t: t[W2 + "weight"].zero_()), W2 + "weight", False),
    Damage(
        "experts exchanged",
        "bf16",
        exchanged(MOE.format(0) + "experts.1.", MOE.format(0) + "experts.6."),
        EXPERT.format(0, 1, "w1") + "weight",
        False,
    ),
    Damage("one weight's exponent flipped", "bf16", bit(W3 + "weight", (17, 4), 13), W3 + "weight", False),
    Damage("correction bias missing", "bf16", drop(BIAS), BIAS),
    Damage(
        "an expert copied over another",
        "bf16",
        tensors(lambda t: t.__setitem__(W1 + "weight", t[EXPERT.format(1, 4, "w1") + "weight"].clone())),
        W1 + "weight",
    ),
    Damage("a scale too many", "bf16", put(W1 + "weight_scale", torch.ones(256, 1)), W1 + "weight_scale"),
    Damage(
        "a matrix transposed",
        "bf16",
        changed(LAYER.format(0) + "self_attn.k_proj.weight", lambda x: x.t().contiguous()),
        LAYER.format(0) + "self_attn.k_proj.weight",
    ),
    Damage("reinitialized", "bf16", tensors(lambda t: t[W1 + "weight"].normal_(0, 0.02)), W1 + "weight", False),
]
