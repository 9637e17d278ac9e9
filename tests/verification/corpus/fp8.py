"""FP8 with a scale per channel."""

import torch

from tests.verification.corpus.changes import (
    BIAS,
    ROUTER,
    W1,
    W2,
    W3,
    Damage,
    Q,
    bit,
    changed,
    drop,
    element,
    exchanged,
    put,
    quantized,
    scaled,
    tensors,
)
from tests.verification.damage import EXPERT, LAYER, MOE, Tensors


def _renamed(t: Tensors) -> None:
    """What llmcompressor's oneshot saves of MiniMax-M2."""
    for old, new in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
        for name in [n for n in t if f".{old}." in n]:
            t[name.replace(f".{old}.", f".{new}.")] = t.pop(name)


def _layer_twice(t: Tensors) -> None:
    for name in [n for n in t if n.startswith("model.layers.1.")]:
        t[name] = t[name.replace("layers.1.", "layers.0.")].clone()


def _transposed(t: Tensors) -> None:
    t[W2 + "weight"] = t[W2 + "weight"].t()


def _interleaved(t: Tensors) -> None:
    """As llama.cpp's converter does for other architectures."""
    rows = t[Q + "weight"]
    t[Q + "weight"] = rows.reshape(-1, 2, 32, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


_SCALES = (W1 + "weight_scale", W3 + "weight_scale")

FP8 = [
    Damage("all scales a quarter", "fp8", scaled(W2 + "weight_scale", 0.25), W2 + "weight", False),
    Damage("router quantized", "fp8", quantized(ROUTER), f"{ROUTER}.weight_scale"),
    Damage("head quantized", "fp8", quantized("lm_head"), "lm_head.weight_scale"),
    Damage("embeddings quantized", "fp8", quantized("model.embed_tokens"), "model.embed_tokens.weight_scale"),
    Damage("an expert's scale missing", "fp8", drop(W1 + "weight_scale"), W1 + "weight_scale"),
    Damage("an attention scale missing", "fp8", drop(Q + "weight_scale"), Q + "weight_scale"),
    Damage("scale NaN", "fp8", element(W2 + "weight_scale", (5, 0), float("nan")), W2 + "weight_scale"),
    Damage("scale infinite", "fp8", element(Q + "weight_scale", (5, 0), float("inf")), Q + "weight_scale"),
    Damage("scale zero over a row", "fp8", element(W2 + "weight_scale", (5, 0), 0.0), W2 + "weight_scale"),
    Damage("scale's sign flipped", "fp8", bit(W2 + "weight_scale", (7, 0), 15), W2 + "weight_scale"),
    Damage("scale's exponent flipped", "fp8", bit(W2 + "weight_scale", (7, 0), 7), W2 + "weight", False),
    Damage("scale's mantissa flipped", "fp8", bit(W2 + "weight_scale", (7, 0), 6), W2 + "weight", False),
    Damage("weight is E4M3's NaN", "fp8", element(W3 + "weight", (0, 9), float("nan")), W3 + "weight"),
    Damage(
        "scales of two experts swapped",
        "fp8",
        exchanged(W1 + "weight_scale", EXPERT.format(1, 4, "w1") + "weight_scale"),
        W1 + "weight",
        False,
    ),
    Damage(
        "scales of another layer",
        "fp8",
        tensors(
            lambda t: t.__setitem__(Q + "weight_scale", t[Q.replace("layers.0", "layers.1") + "weight_scale"].clone())
        ),
        Q + "weight",
        False,
    ),
    Damage(
        "experts exchanged",
        "fp8",
        exchanged(MOE.format(0) + "experts.2.", MOE.format(0) + "experts.5."),
        EXPERT.format(0, 2, "w1") + "weight",
        False,
    ),
    Damage("gate and up exchanged", "fp8", exchanged(W1, W3), W1 + "weight", False),
    Damage("a layer written twice", "fp8", tensors(_layer_twice), W1 + "weight"),
    Damage("an expert's weight missing", "fp8", drop(W2 + "weight", W2 + "weight_scale"), W2 + "weight"),
    Damage("a norm missing", "fp8", drop("model.norm.weight"), "model.norm.weight"),
    Damage(
        "scale without its column",
        "fp8",
        changed(W2 + "weight_scale", lambda x: x[:, 0]),
        W2 + "weight_scale",
    ),
    Damage("correction bias cut short", "fp8", changed(BIAS, lambda x: x[:7]), BIAS),
    Damage("correction bias in BF16", "fp8", changed(BIAS, lambda x: x.bfloat16()), BIAS),
    Damage("experts under llmcompressor's names", "fp8", tensors(_renamed), EXPERT.format(0, 0, "w1") + "weight"),
    Damage(
        "a tensor too many", "fp8", put("model.layers.0.extra.weight", torch.ones(4, 4)), "model.layers.0.extra.weight"
    ),
    Damage("norm of ones", "fp8", tensors(lambda t: t["model.norm.weight"].fill_(1.0)), "model.norm.weight", False),
    Damage("one code flipped", "fp8", bit(W2 + "weight", (7, 9), 2), W2 + "weight", False),
    Damage(
        "router rows permuted",
        "fp8",
        changed(f"{ROUTER}.weight", lambda x: x.roll(1, 0)),
        f"{ROUTER}.weight",
        False,
    ),
    Damage(
        "query heads permuted",
        "fp8",
        changed(Q + "weight", lambda x: x.roll(64, 0)),
        Q + "weight",
        False,
    ),
    Damage("a scale's lowest bit flipped", "fp8", bit(W2 + "weight_scale", (7, 0), 0), W2 + "weight", False),
    Damage("scales of gate and up exchanged", "fp8", exchanged(*_SCALES), W1 + "weight", False),
    Damage(
        "attention of two layers exchanged",
        "fp8",
        exchanged(LAYER.format(0) + "self_attn.", LAYER.format(1) + "self_attn."),
        Q + "weight",
        False,
    ),
    Damage(
        "norms of a layer exchanged",
        "fp8",
        exchanged(LAYER.format(0) + "input_layernorm", LAYER.format(0) + "post_attention_layernorm"),
        "layers.0.input_layernorm.weight",
        False,
    ),
    Damage("one weight of a norm off by a bit", "fp8", bit("model.norm.weight", (10,), 0), "model.norm.weight", False),
    Damage(
        "a norm of a head replaced by ones",
        "fp8",
        tensors(lambda t: t[LAYER.format(0) + "self_attn.q_norm.weight"].fill_(1)),
        "self_attn.q_norm.weight",
        False,
    ),
    Damage("a square matrix transposed", "fp8", tensors(_transposed), W2 + "weight", False),
    Damage("rows of heads interleaved", "fp8", tensors(_interleaved), Q + "weight", False),
    Damage(
        "a norm off by three percent",
        "fp8",
        scaled(LAYER.format(0) + "input_layernorm.weight", 1.03),
        "layers.0.input_layernorm.weight",
        False,
    ),
    Damage("correction bias of zeros", "fp8", tensors(lambda t: t[BIAS].zero_()), BIAS, False),
    Damage("correction bias rolled", "fp8", changed(BIAS, lambda x: x.roll(1)), BIAS, False),
    Damage(
        "correction biases of two layers exchanged",
        "fp8",
        exchanged(BIAS, BIAS.replace("layers.1", "layers.0")),
        BIAS,
        False,
    ),
    Damage(
        "head replaced by the embeddings",
        "fp8",
        tensors(lambda t: t.__setitem__("lm_head.weight", t["model.embed_tokens.weight"].clone())),
        "lm_head.weight",
        False,
    ),
    Damage(
        "two rows of the embeddings exchanged",
        "fp8",
        tensors(
            lambda t: t["model.embed_tokens.weight"].__setitem__([10, 11], t["model.embed_tokens.weight"][[11, 10]])
        ),
        "model.embed_tokens.weight",
        False,
    ),
]
