"""Integers of four bits with zero points, in AutoAWQ's layout and compressed-tensors'."""

import torch

from tests.verification.corpus.changes import (
    ROUTER,
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
    ignore,
    tensors,
)
from tests.verification.damage import EXPERT, LAYER, Tensors


def _awq_order(t: Tensors) -> None:
    """Nibbles in natural order, as most other packers write them."""
    words = t[W1 + "qweight"]
    natural = [(words >> (4 * place)) & 15 for place in (0, 4, 1, 5, 2, 6, 3, 7)]
    packed = torch.zeros_like(words)
    for place, codes in enumerate(natural):
        packed |= codes << (4 * place)
    t[W1 + "qweight"] = packed


def _zero_point(t: Tensors) -> None:
    zeros = t[W2 + "qzeros"]
    code = (zeros[0, 3] >> 8) & 15
    zeros[0, 3] += 0x100 if code < 15 else -0x100


NORM = LAYER.format(1) + "post_attention_layernorm.weight"
V = LAYER.format(0) + "self_attn.v_proj."


def _half_of_values(t: Tensors) -> None:
    rows = t[V + "scales"].shape[1] // 2
    t[V + "scales"][:, :rows] *= 3


AWQ = [
    Damage("another version", "awq", config(lambda c: c["quantization_config"].update(version="gemv")), "config.json"),
    Damage("zero points denied", "awq", config(lambda c: c["quantization_config"].update(zero_point=False)), "qzeros"),
    Damage("scales infinite", "awq", element(W2 + "scales", (0, 3), float("inf")), W2 + "scales"),
    Damage("zero points lost", "awq", tensors(lambda t: t[W2 + "qzeros"].zero_()), W2 + "weight", False),
    Damage("zero points missing", "awq", drop(W2 + "qzeros"), W2 + "qzeros"),
    Damage("one code flipped", "awq", bit(W2 + "qweight", (7, 9), 2), W2 + "weight", False),
    Damage("one code of a query flipped", "awq", bit(Q + "qweight", (7, 9), 6), Q + "weight", False),
    Damage("one code flipped", "awq-packed", bit(W2 + "weight_packed", (7, 9), 2), W2 + "weight", False),
    Damage("packed in natural order", "awq", tensors(_awq_order), W1 + "weight", False),
    Damage(
        "packed along inputs",
        "awq",
        changed(W1 + "qweight", lambda x: x.reshape(32, 256)),
        W1 + "qweight",
    ),
    Damage(
        "router not left out",
        "awq",
        ignore(lambda e: [x for x in e if "gate" not in x], "modules_to_not_convert"),
        ROUTER,
    ),
    Damage("too much left out", "awq", ignore(lambda e: [*e, "self_attn"], "modules_to_not_convert"), Q[:-1]),
    Damage("another group size", "awq", config(lambda c: c["quantization_config"].update(group_size=64)), "qzeros"),
    Damage("gate and up exchanged", "awq", exchanged(W1, W3), W1 + "weight", False),
    Damage(
        "scales of another expert",
        "awq",
        exchanged(W1 + "scales", EXPERT.format(1, 4, "w1") + "scales"),
        W1 + "weight",
        False,
    ),
    Damage("weight shape missing", "awq-packed", drop(W2 + "weight_shape"), W2 + "weight_shape"),
    Damage("packed zero points missing", "awq-packed", drop(W2 + "weight_zero_point"), W2 + "weight_zero_point"),
    Damage(
        "weight shape wrong", "awq-packed", tensors(lambda t: t[W2 + "weight_shape"].fill_(128)), W2 + "weight", False
    ),
    Damage("one zero point off by one", "awq", tensors(_zero_point), W2 + "weight", False),
    Damage(
        "zero points off by one, as GPTQ stores them",
        "awq",
        changed(W2 + "qzeros", lambda x: x + 0x11111111),
        W2 + "weight",
        False,
    ),
    Damage("scales in F32", "awq", changed(W2 + "scales", lambda x: x.float()), W2 + "scales"),
    Damage(
        "input channels shifted",
        "awq",
        changed(W2 + "qweight", lambda x: x.roll(1, 0)),
        W2 + "weight",
        False,
    ),
    Damage("twelve channels of a norm times ten", "awq", tensors(lambda t: t[NORM][:12].mul_(10)), NORM, False),
    Damage("half of a value projection times three", "awq", tensors(_half_of_values), V + "weight", False),
    Damage("one zero point flipped", "awq-packed", bit(W2 + "weight_zero_point", (0, 0), 0), W2 + "weight", False),
]
