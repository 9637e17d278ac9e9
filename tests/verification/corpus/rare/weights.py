"""Weights, scales and codes: what another checkpoint, another step of a tool, or another order puts in their place."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.verification.corpus.changes import (
    BIAS,
    ROUTER,
    W1,
    W2,
    W3,
    Damage,
    Q,
    changed,
    element,
    exchanged,
    scaled,
    tensors,
)
from tests.verification.damage import EXPERT, LAYER, MOE, Tensors

K, V, OUT = (Q.replace("q_", f"{part}_") for part in "kvo")
NORM = LAYER.format(1) + "post_attention_layernorm.weight"
OTHER = EXPERT.format(1, 4, "w2")
THERE = EXPERT.format(0, 3, "w2")
EVERY = slice(None)


def part(name: str, rows: slice, columns: slice, factor: float) -> Callable[[Path], None]:
    def change(t: Tensors) -> None:
        there = t[name][rows, columns] if t[name].dim() > 1 else t[name][rows]
        there.copy_((there.float() * factor).to(there.dtype))

    return tensors(change)


def copied(target: str, source: str) -> Callable[[Path], None]:
    """Every tensor whose name begins with `source`, to that of `target`."""

    def change(t: Tensors) -> None:
        for name in [n for n in t if n.startswith(source)]:
            t[target + name.removeprefix(source)] = t[name].clone()

    return tensors(change)


def rolled(name: str, dim: int, by: int = 1) -> Callable[[Path], None]:
    return changed(
        name, lambda x: x.view(torch.uint8).roll(by, dim).view(x.dtype) if x.element_size() == 1 else x.roll(by, dim)
    )


def flipped(name: str, which: slice) -> Callable[[Path], None]:
    return part(name, which, EVERY, -1.0)


def _rows_exchanged(t: Tensors) -> None:
    for name in (W2 + "weight", W2 + "weight_scale"):
        held = t[name].view(torch.uint8) if t[name].element_size() == 1 else t[name]
        held[[5, 9]] = held[[9, 5]].clone()


def _heads_exchanged(name: str, size: int = 64) -> Callable[[Path], None]:
    def change(t: Tensors) -> None:
        for full in [n for n in t if n.startswith(name)]:
            held = t[full].view(torch.uint8) if t[full].element_size() == 1 else t[full]
            held[: 2 * size] = held[: 2 * size].roll(size, 0)

    return tensors(change)


def _transposed_block(t: Tensors) -> None:
    held = t[W2 + "weight"]
    held[:128, :128] = held[:128, :128].t().clone()


def _noise(size: float) -> Callable[[Path], None]:
    def change(t: Tensors) -> None:
        drawn = torch.randn(t[W1 + "weight"].shape, generator=torch.Generator().manual_seed(0))
        t[W1 + "weight"] = (t[W1 + "weight"].float() * (1 + size * drawn)).bfloat16()

    return tensors(change)


def _through_fp8(t: Tensors) -> None:
    t[W1 + "weight"] = (t[W1 + "weight"] * 1000).to(torch.float8_e4m3fn).bfloat16() / 1000


def _shifted_nibbles(t: Tensors) -> None:
    t[W2 + "weight_packed"] = t[W2 + "weight_packed"].roll(8, 1)


def _two_tokens(t: Tensors) -> None:
    t["model.embed_tokens.weight"][[300, 301]] = t["model.embed_tokens.weight"][[301, 300]].clone()


def _words(name: str, one: int, other: int) -> Callable[[Path], None]:
    """Two words of eight packed numbers."""

    def change(t: Tensors) -> None:
        t[name][:, [one, other]] = t[name][:, [other, one]].clone()

    return tensors(change)


def _all_experts(parts: tuple[str, ...], factor: float, layer: int = 1) -> Callable[[Path], None]:
    def change(t: Tensors) -> None:
        for expert in range(8):
            for name in parts:
                held = t[EXPERT.format(layer, expert, name).rstrip(".")]
                held.copy_((held.float() * factor).to(held.dtype))

    return tensors(change)


WEIGHTS = [
    Damage(
        "codes that are not numbers",
        "fp8",
        tensors(lambda t: t[W2 + "weight"].view(torch.uint8).__setitem__((3, 3), 0x7F)),
        W2 + "weight",
        True,
    ),
    Damage("a row of zeros", "fp8", part(W2 + "weight", slice(3, 4), EVERY, 0.0), W2 + "weight", False),
    Damage("two rows exchanged with their scales", "fp8", tensors(_rows_exchanged), W2 + "weight", False),
    Damage("channels rolled", "fp8", rolled(W2 + "weight", 1), W2 + "weight", False),
    Damage("rows rolled", "nvfp4", rolled(W2 + "weight_packed", 0), W2 + "weight", False),
    Damage(
        "the expert of another layer",
        "fp8",
        copied(MOE.format(1) + "experts.3.", MOE.format(0) + "experts.3."),
        MOE.format(1) + "experts.3.",
        True,
    ),
    Damage(
        "the scale of another layer", "fp8", copied(W2 + "weight_scale", THERE + "weight_scale"), W2 + "weight", False
    ),
    Damage(
        "the global scale of another layer",
        "nvfp4",
        copied(W2 + "weight_global_scale", THERE + "weight_global_scale"),
        W2 + "weight",
        False,
    ),
    Damage(
        "block scales of another expert",
        "nvfp4",
        copied(W2 + "weight_scale", OTHER + "weight_scale"),
        W2 + "weight",
        False,
    ),
    Damage(
        "codes of another expert", "nvfp4", copied(W2 + "weight_packed", OTHER + "weight_packed"), W2 + "weight", False
    ),
    Damage(
        "the input scale of a thirtieth of the size",
        "nvfp4-gb10",
        scaled(W2 + "input_global_scale", 30.0),
        W2 + "input_global_scale",
        False,
    ),
    Damage(
        "input scales of gate and up a tenth",
        "nvfp4-gb10",
        tensors(lambda t: [t[w + "input_global_scale"].mul_(10) for w in (W1, W3)]),
        W1 + "input_global_scale",
        False,
    ),
    Damage(
        "a static input scale of half the size",
        "fp8-modelopt",
        scaled(W2 + "input_scale", 0.02),
        W2 + "input_scale",
        False,
    ),
    Damage(
        "both fused global scales",
        "nvfp4-modelopt",
        tensors(lambda t: [t[w + "weight_scale_2"].mul_(1.5) for w in (W1, W3)]),
        W1 + "weight",
        False,
    ),
    Damage("codes rolled by a group", "nvfp4", tensors(_shifted_nibbles), W2 + "weight", False),
    Damage("heads of queries exchanged", "fp8", _heads_exchanged(Q), Q + "weight", False),
    Damage("heads of keys exchanged", "nvfp4", _heads_exchanged(K + "weight_"), K + "weight", False),
    Damage("keys and values exchanged", "fp8", exchanged(K, V), K + "weight", False),
    Damage("values of the other layer", "nvfp4", copied(V, V.replace("layers.0", "layers.1")), V + "weight", True),
    Damage("a transposed block", "bf16", tensors(_transposed_block), W2 + "weight", False),
    Damage("a transposed block", "fp8-block", tensors(_transposed_block), W2 + "weight", False),
    Damage("weights a thousandth off", "bf16", _noise(0.01), W1 + "weight", False),
    Damage("weights that went through FP8", "bf16", tensors(_through_fp8), W1 + "weight", False),
    Damage("a row's sign", "bf16", flipped(W1 + "weight", slice(9, 10)), W1 + "weight", False),
    Damage("a row's sign in its scale", "fp8", flipped(W2 + "weight_scale", slice(9, 10)), W2 + "weight_scale", True),
    Damage("half of the correction bias shifted", "fp8", part(BIAS, slice(0, 4), EVERY, 1.5), BIAS, False),
    Damage("correction bias negated", "awq", flipped(BIAS, EVERY), BIAS, False),
    Damage(
        "correction bias of the other layer", "nvfp4", copied(BIAS, BIAS.replace("layers.1", "layers.0")), BIAS, True
    ),
    Damage("router of the other layer", "fp8", copied(ROUTER, ROUTER.replace("layers.0", "layers.1")), ROUTER, True),
    Damage(
        "router's rows reversed", "fp8", changed(ROUTER + ".weight", lambda x: x.flip(0)), ROUTER + ".weight", False
    ),
    Damage(
        "a router's row of zeros", "nvfp4", part(ROUTER + ".weight", slice(2, 3), EVERY, 0.0), ROUTER + ".weight", False
    ),
    Damage("a router twice as sharp", "awq", scaled(ROUTER + ".weight", 2.0), ROUTER + ".weight", False),
    Damage("two tokens' embeddings exchanged", "fp8", tensors(_two_tokens), "embed_tokens", False),
    Damage("an output row of zeros", "fp8", part("lm_head.weight", slice(70, 71), EVERY, 0.0), "lm_head.weight", False),
    Damage("output rows rolled", "awq", rolled("lm_head.weight", 0), "lm_head.weight", False),
    Damage(
        "output is the embeddings",
        "fp8",
        copied("lm_head.weight", "model.embed_tokens.weight"),
        "lm_head.weight",
        False,
    ),
    Damage(
        "norms of two layers exchanged",
        "fp8",
        exchanged(LAYER.format(0) + "input_layernorm.", LAYER.format(1) + "input_layernorm."),
        "input_layernorm",
        False,
    ),
    Damage(
        "both norms of a layer exchanged",
        "awq",
        exchanged(LAYER.format(1) + "input_layernorm.", NORM.removesuffix("weight")),
        "layernorm",
        False,
    ),
    Damage("last norm doubled", "fp8", scaled("model.norm.weight", 2.0), "model.norm.weight", False),
    Damage("all norms four hundredths off", "fp8", tensors(lambda t: t[NORM].mul_(1.04)), NORM, False),
    Damage("one channel of a norm huge", "nvfp4", element(NORM, (9,), 900.0), NORM, False),
    Damage("norm of keys negated", "fp8", flipped(LAYER.format(0) + "self_attn.k_norm.weight", EVERY), "k_norm", False),
    Damage(
        "a norm and its readers, one left out",
        "fp8",
        tensors(
            lambda t: [
                t[NORM].div_(1.5),
                *(t[EXPERT.format(1, e, w) + "weight_scale"].mul_(1.5) for e in range(8) for w in ("w1", "w3")),
            ]
        ),
        MOE.format(1) + "gate.weight",
        False,
    ),
    Damage("a tenth of a norm's channels", "awq", part(NORM, slice(40, 66), EVERY, 3.0), NORM, False),
    Damage(
        "a norm three hundredths off",
        "awq",
        part(LAYER.format(0) + "input_layernorm.weight", EVERY, EVERY, 1.03),
        "input_layernorm",
        False,
    ),
    Damage("one channel of a norm a tenth off", "awq-packed", part(NORM, slice(7, 8), EVERY, 1.1), NORM, False),
    Damage("a gate's rows", "awq", part(W1 + "scales", EVERY, slice(0, 8), 1.5), W1 + "weight", False),
    Damage("a value projection times three", "awq", part(V + "scales", EVERY, EVERY, 3.0), V + "weight", False),
    Damage("an up projection a tenth larger", "awq", part(W3 + "scales", EVERY, EVERY, 1.1), W3 + "weight", False),
    Damage(
        "half of an up projection's rows",
        "awq-packed",
        part(W3 + "weight_scale", slice(0, 128), EVERY, 1.2),
        W3 + "weight",
        False,
    ),
    Damage("a group of a down projection", "awq", part(W2 + "scales", slice(0, 1), EVERY, 1.15), W2 + "weight", False),
    Damage(
        "rows of an output projection", "awq", part(OUT + "scales", EVERY, slice(0, 16), 1.4), OUT + "weight", False
    ),
    Damage(
        "a router's column",
        "awq",
        part(MOE.format(1) + "gate.weight", EVERY, slice(7, 8), 1.2),
        MOE.format(1) + "gate.weight",
        False,
    ),
    Damage("every up projection off by one factor", "awq", _all_experts(("w3.scales",), 1.2), "w3.weight", False),
    Damage("groups exchanged", "awq", changed(W2 + "scales", lambda x: x.flip(0)), W2 + "weight", False),
    Damage("zero points of another expert", "awq", copied(W2 + "qzeros", OTHER + "qzeros"), W2 + "weight", False),
    Damage(
        "zero points of groups exchanged",
        "awq-packed",
        changed(W2 + "weight_zero_point", lambda x: x.flip(1)),
        W2 + "weight",
        False,
    ),
    Damage("eight outputs exchanged", "awq", _words(W2 + "qweight", 0, 5), W2 + "weight", False),
    Damage("eight inputs exchanged", "awq-packed", _words(W2 + "weight_packed", 0, 5), W2 + "weight", False),
    Damage(
        "scales as reciprocals",
        "fp8-block",
        tensors(lambda t: t[W2 + "weight_scale"].reciprocal_()),
        W2 + "weight",
        True,
    ),
    Damage(
        "scales as reciprocals", "fp8", tensors(lambda t: t[W2 + "weight_scale"].reciprocal_()), W2 + "weight", True
    ),
    Damage(
        "scales of all experts doubled", "nvfp4", _all_experts(("w2.weight_global_scale",), 0.5), "w2.weight", False
    ),
    Damage(
        "block scales transposed",
        "nvfp4",
        changed(W2 + "weight_scale", lambda x: x.view(torch.uint8).t().contiguous().view(x.shape).view(x.dtype)),
        W2 + "weight",
        False,
    ),
    Damage(
        "rotary keys interleaved otherwise",
        "deepseek/bf16",
        changed(
            LAYER.format(1) + "self_attn.kv_a_proj_with_mqa.weight",
            lambda x: torch.cat((x[:128], x[128:].view(16, 2, -1).transpose(0, 1).reshape(32, -1))),
        ),
        "kv_a_proj_with_mqa",
        False,
    ),
    Damage(
        "keys and values within a head exchanged",
        "deepseek/bf16",
        changed(
            LAYER.format(1) + "self_attn.kv_b_proj.weight", lambda x: x.view(4, 2, 64, -1).flip(1).reshape(x.shape)
        ),
        "kv_b_proj",
        False,
    ),
    Damage(
        "the shared expert's halves exchanged",
        "deepseek/fp8",
        exchanged("model.layers.1.mlp.shared_experts.gate_proj.", "model.layers.1.mlp.shared_experts.up_proj."),
        "shared_experts",
        False,
    ),
    Damage(
        "a routed expert in the shared one's place",
        "deepseek/nvfp4",
        copied("model.layers.1.mlp.shared_experts.", "model.layers.1.mlp.experts.0."),
        "shared_experts",
        True,
    ),
]
