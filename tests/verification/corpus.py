"""The corpus of damaged folders: what was done, to which variant, and the tensor, file or key that must be named.

`alone`: whether it shows in the artifact itself; the others need the source to compare with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.verification.damage import (
    EXPERT,
    LAYER,
    MOE,
    Tensors,
    edit_config,
    edit_tensors,
    flip,
    in_shards,
    replace,
    swap,
)

ROUTER = MOE.format(0) + "gate"
BIAS = MOE.format(1) + "e_score_correction_bias"
W1, W2, W3 = (EXPERT.format(1, 3, part) for part in ("w1", "w2", "w3"))
Q = LAYER.format(0) + "self_attn.q_proj."


@dataclass(frozen=True)
class Damage:
    name: str
    variant: str
    do: Callable[[Path], None]
    where: str
    alone: bool = True


def tensors(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, lambda found: (change(found), None)[1])


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda found: (change(found), None)[1])


def _set(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return tensors(lambda t: t.__setitem__(name, value))


def _drop(*names: str) -> Callable[[Path], None]:
    return tensors(lambda t: [t.pop(name) for name in names])


def _scaled(name: str, factor: float) -> Callable[[Path], None]:
    return tensors(lambda t: t.__setitem__(name, (t[name].float() * factor).to(t[name].dtype)))


def _element(name: str, index: tuple[int, ...], value: float) -> Callable[[Path], None]:
    return tensors(lambda t: t[name].__setitem__(index, value))


def _bit(name: str, index: tuple[int, ...], bit: int) -> Callable[[Path], None]:
    return tensors(lambda t: flip(t[name], index, bit))


def _quantize(name: str) -> Callable[[Path], None]:
    """To FP8, as a tool does that has no ignore list."""

    def change(t: Tensors) -> None:
        weight = t[f"{name}.weight"].float()
        scale = weight.abs().amax(1, keepdim=True) / 448
        t[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        t[f"{name}.weight_scale"] = scale.bfloat16()

    return tensors(change)


def _renamed(t: Tensors) -> None:
    """What llmcompressor's oneshot saves of MiniMax-M2."""
    for old, new in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
        for name in [n for n in t if f".{old}." in n]:
            t[name.replace(f".{old}.", f".{new}.")] = t.pop(name)


def _layer_twice(t: Tensors) -> None:
    for name in [n for n in t if n.startswith("model.layers.1.")]:
        t[name] = t[name.replace("layers.1.", "layers.0.")].clone()


def _ignore(change: Callable[[list[str]], list[str]], key: str = "ignore") -> Callable[[Path], None]:
    def edit(found: dict[str, Any]) -> None:
        found["quantization_config"][key] = change(found["quantization_config"][key])

    return config(edit)


def _nibbles(t: Tensors) -> None:
    packed = t[W2 + "weight_packed"]
    t[W2 + "weight_packed"] = (packed << 4) | (packed >> 4)


def _truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    replace(folder / "model.safetensors", data[:-100])


def _leftover(folder: Path) -> None:
    in_shards(folder)
    data = (folder / "model-00002-of-00002.safetensors").read_bytes()
    (folder / "model-00003-of-00003.safetensors").write_bytes(data)


def _moved(index: dict[str, Any]) -> None:
    index["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"


def _shard_gone(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _mode(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    replace(folder / "model.safetensors", data)
    (folder / "model.safetensors").chmod(0o600)


def _awq_order(t: Tensors) -> None:
    """Nibbles in natural order, as most other packers write them."""
    words = t[W1 + "qweight"]
    natural = [(words >> (4 * place)) & 15 for place in (0, 4, 1, 5, 2, 6, 3, 7)]
    packed = torch.zeros_like(words)
    for place, codes in enumerate(natural):
        packed |= codes << (4 * place)
    t[W1 + "qweight"] = packed


def from_source(name: str, demo: Tensors) -> torch.Tensor:
    return demo[name].clone()


FP8 = [
    Damage("a layer less in config", "fp8", config(lambda c: c.update(num_hidden_layers=1)), "layer"),
    Damage("a layer more in config", "fp8", config(lambda c: c.update(num_hidden_layers=3)), "layer"),
    Damage(
        "another class in config",
        "fp8",
        config(lambda c: c.update(architectures=["LlamaForCausalLM"])),
        "architectures",
    ),
    Damage("all scales a quarter", "fp8", _scaled(W2 + "weight_scale", 0.25), W2 + "weight", False),
    Damage(
        "format of another scheme",
        "fp8",
        config(lambda c: c["quantization_config"].update(format="pack-quantized")),
        "config.json",
    ),
    Damage(
        "weights called uncompressed",
        "fp8",
        config(lambda c: c["quantization_config"].update(quantization_status="frozen")),
        "config.json",
    ),
    Damage(
        "four bits declared",
        "fp8",
        config(lambda c: c["quantization_config"]["config_groups"]["FP8_DYNAMIC"]["weights"].update(num_bits=4)),
        "config.json",
    ),
    Damage("router quantized", "fp8", _quantize(ROUTER), f"{ROUTER}.weight_scale"),
    Damage("head quantized", "fp8", _quantize("lm_head"), "lm_head.weight_scale"),
    Damage("embeddings quantized", "fp8", _quantize("model.embed_tokens"), "model.embed_tokens.weight_scale"),
    Damage("an expert's scale missing", "fp8", _drop(W1 + "weight_scale"), W1 + "weight_scale"),
    Damage("an attention scale missing", "fp8", _drop(Q + "weight_scale"), Q + "weight_scale"),
    Damage("scale NaN", "fp8", _element(W2 + "weight_scale", (5, 0), float("nan")), W2 + "weight_scale"),
    Damage("scale infinite", "fp8", _element(Q + "weight_scale", (5, 0), float("inf")), Q + "weight_scale"),
    Damage("scale zero over a row", "fp8", _element(W2 + "weight_scale", (5, 0), 0.0), W2 + "weight_scale"),
    Damage("scale's sign flipped", "fp8", _bit(W2 + "weight_scale", (7, 0), 15), W2 + "weight_scale"),
    Damage("scale's exponent flipped", "fp8", _bit(W2 + "weight_scale", (7, 0), 7), W2 + "weight", False),
    Damage("scale's mantissa flipped", "fp8", _bit(W2 + "weight_scale", (7, 0), 6), W2 + "weight", False),
    Damage("weight is E4M3's NaN", "fp8", _element(W3 + "weight", (0, 9), float("nan")), W3 + "weight"),
    Damage(
        "scales of two experts swapped",
        "fp8",
        tensors(lambda t: swap(t, W1 + "weight_scale", EXPERT.format(1, 4, "w1") + "weight_scale")),
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
        tensors(lambda t: swap(t, MOE.format(0) + "experts.2.", MOE.format(0) + "experts.5.")),
        EXPERT.format(0, 2, "w1") + "weight",
        False,
    ),
    Damage("gate and up exchanged", "fp8", tensors(lambda t: swap(t, W1, W3)), W1 + "weight", False),
    Damage("a layer written twice", "fp8", tensors(_layer_twice), W1 + "weight"),
    Damage("an expert's weight missing", "fp8", _drop(W2 + "weight", W2 + "weight_scale"), W2 + "weight"),
    Damage("a norm missing", "fp8", _drop("model.norm.weight"), "model.norm.weight"),
    Damage(
        "scale without its column",
        "fp8",
        tensors(lambda t: t.__setitem__(W2 + "weight_scale", t[W2 + "weight_scale"][:, 0])),
        W2 + "weight_scale",
    ),
    Damage("correction bias cut short", "fp8", tensors(lambda t: t.__setitem__(BIAS, t[BIAS][:7])), BIAS),
    Damage("correction bias in BF16", "fp8", tensors(lambda t: t.__setitem__(BIAS, t[BIAS].bfloat16())), BIAS),
    Damage(
        "config counts an expert less", "fp8", config(lambda c: c.__setitem__("num_local_experts", 7)), MOE.format(0)
    ),
    Damage(
        "config counts an expert more", "fp8", config(lambda c: c.__setitem__("num_local_experts", 9)), MOE.format(0)
    ),
    Damage("two counts of experts", "fp8", config(lambda c: c.__setitem__("num_experts", 16)), "config.json"),
    Damage("scoring_func gone", "fp8", config(lambda c: c.pop("scoring_func")), "scoring_func"),
    Damage("rotary_dim gone", "fp8", config(lambda c: c.pop("rotary_dim")), "rotary_dim"),
    Damage(
        "rope_theta of another model", "fp8", config(lambda c: c.__setitem__("rope_theta", 5e6)), "rope_theta", False
    ),
    Damage("MTP count gone", "fp8", config(lambda c: c.pop("num_mtp_modules")), "num_mtp_modules", False),
    Damage("router not ignored", "fp8", _ignore(lambda e: [x for x in e if "gate" not in x]), ROUTER),
    Damage("router ignored on disk alone", "fp8", _ignore(lambda e: [x for x in e if ".mlp.gate" not in x]), ROUTER),
    Damage("head not ignored", "fp8", _ignore(lambda e: [x for x in e if x != "lm_head"]), "lm_head"),
    Damage("attention ignored", "fp8", _ignore(lambda e: [*e, "re:.*self_attn.*"]), Q[:-1]),
    Damage("no quantization_config", "fp8", config(lambda c: c.pop("quantization_config")), "config.json"),
    Damage(
        "per channel called per tensor",
        "fp8",
        config(lambda c: c["quantization_config"]["config_groups"]["FP8_DYNAMIC"]["weights"].update(strategy="tensor")),
        "weight_scale",
    ),
    Damage("experts under llmcompressor's names", "fp8", tensors(_renamed), EXPERT.format(0, 0, "w1") + "weight"),
    Damage(
        "a tensor too many", "fp8", _set("model.layers.0.extra.weight", torch.ones(4, 4)), "model.layers.0.extra.weight"
    ),
    Damage("file cut short", "fp8", _truncate, "model.safetensors"),
    Damage("file only its owner can read", "fp8", _mode, "model.safetensors"),
    Damage(
        "tokenizer changed",
        "fp8",
        lambda f: edit_config(f, lambda t: t["model"]["vocab"].__setitem__("the", 7), "tokenizer.json"),
        "tokenizer.json",
        False,
    ),
    Damage(
        "tokenizer gone", "fp8", lambda f: [p.unlink() for p in f.glob("tokenizer*")] and None, "tokenizer.json", False
    ),
    Damage("chat template gone", "fp8", lambda f: (f / "chat_template.jinja").unlink(), "chat_template.jinja", False),
    Damage(
        "another end token",
        "fp8",
        lambda f: edit_config(f, lambda g: g.__setitem__("eos_token_id", 99999), "generation_config.json"),
        "generation_config.json",
    ),
    Damage("config gone", "fp8", lambda f: (f / "config.json").unlink(), "config.json"),
    Damage("shard left over", "fp8", _leftover, "model-00003-of-00003.safetensors"),
    Damage("shard missing", "fp8", _shard_gone, "model-00002-of-00002.safetensors"),
    Damage("index of another save", "fp8", lambda f: in_shards(f, _moved), "lm_head.weight"),
    Damage(
        "index without a tensor",
        "fp8",
        lambda f: in_shards(f, lambda i: i["weight_map"].pop("lm_head.weight") and None),
        "lm_head.weight",
    ),
    Damage(
        "total size wrong",
        "fp8",
        lambda f: in_shards(f, lambda i: i["metadata"].update(total_size=7)),
        "model.safetensors.index.json",
    ),
    Damage(
        "index gone",
        "fp8",
        lambda f: (in_shards(f), (f / "model.safetensors.index.json").unlink())[1],
        "model.safetensors.index.json",
    ),
    Damage("norm of ones", "fp8", tensors(lambda t: t["model.norm.weight"].fill_(1.0)), "model.norm.weight", False),
    Damage("one code flipped", "fp8", _bit(W2 + "weight", (7, 9), 2), W2 + "weight", False),
    Damage(
        "router rows permuted",
        "fp8",
        tensors(lambda t: t.__setitem__(f"{ROUTER}.weight", t[f"{ROUTER}.weight"].roll(1, 0))),
        f"{ROUTER}.weight",
        False,
    ),
    Damage(
        "query heads permuted",
        "fp8",
        tensors(lambda t: t.__setitem__(Q + "weight", t[Q + "weight"].roll(64, 0))),
        Q + "weight",
        False,
    ),
]

NVFP4 = [
    Damage("global scale not shared", "nvfp4", _scaled(W3 + "weight_global_scale", 1.82), W3 + "weight_global_scale"),
    Damage(
        "q/k/v global scale not shared",
        "nvfp4",
        _scaled(Q.replace("q_", "k_") + "weight_global_scale", 2.0),
        Q.replace("q_", "k_") + "weight_global_scale",
    ),
    Damage("global scale missing", "nvfp4", _drop(W2 + "weight_global_scale"), W2 + "weight_global_scale"),
    Damage(
        "global scale's reciprocal",
        "nvfp4",
        tensors(lambda t: t[W2 + "weight_global_scale"].reciprocal_()),
        W2 + "weight_global_scale",
    ),
    Damage("global scale zero", "nvfp4", _element(W2 + "weight_global_scale", (0,), 0.0), W2 + "weight_global_scale"),
    Damage("global scale of another matrix", "nvfp4", _scaled(W2 + "weight_global_scale", 1.6), W2 + "weight", False),
    Damage("group scale NaN", "nvfp4", _element(W2 + "weight_scale", (3, 3), float("nan")), W2 + "weight_scale"),
    Damage("group scale zero", "nvfp4", _element(W2 + "weight_scale", (3, 3), 0.0), W2 + "weight_scale"),
    Damage("group scale's bit flipped", "nvfp4", _bit(W2 + "weight_scale", (3, 3), 4), W2 + "weight", False),
    Damage("one code flipped", "nvfp4", _bit(W2 + "weight_packed", (7, 9), 2), W2 + "weight", False),
    Damage("nibbles the other way round", "nvfp4", tensors(_nibbles), W2 + "weight", False),
    Damage(
        "half a row",
        "nvfp4",
        tensors(lambda t: t.__setitem__(W2 + "weight_packed", t[W2 + "weight_packed"][:, :64])),
        W2 + "weight_packed",
    ),
    Damage(
        "an input scale where none belongs",
        "nvfp4",
        _set(W2 + "input_global_scale", torch.ones(1)),
        W2 + "input_global_scale",
    ),
    Damage("input scale missing", "nvfp4-gb10", _drop(W2 + "input_global_scale"), W2 + "input_global_scale"),
    Damage("input scale zero", "nvfp4-gb10", _element(W2 + "input_global_scale", (0,), 0.0), W2 + "input_global_scale"),
    Damage(
        "input scale infinite",
        "nvfp4-gb10",
        _element(W2 + "input_global_scale", (0,), float("inf")),
        W2 + "input_global_scale",
    ),
    Damage("input scale far off", "nvfp4-gb10", _scaled(W2 + "input_global_scale", 1e6), W2 + "input_global_scale"),
    Damage(
        "input scale of gate and up differ",
        "nvfp4-gb10",
        _scaled(W3 + "input_global_scale", 1.5),
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
        tensors(lambda t: swap(t, MOE.format(1) + "experts.0.", MOE.format(1) + "experts.7.")),
        EXPERT.format(1, 0, "w2") + "weight",
        False,
    ),
]

AWQ = [
    Damage("another version", "awq", config(lambda c: c["quantization_config"].update(version="gemv")), "config.json"),
    Damage("zero points denied", "awq", config(lambda c: c["quantization_config"].update(zero_point=False)), "qzeros"),
    Damage("scales infinite", "awq", _element(W2 + "scales", (0, 3), float("inf")), W2 + "scales"),
    Damage("zero points lost", "awq", tensors(lambda t: t[W2 + "qzeros"].zero_()), W2 + "weight", False),
    Damage("zero points missing", "awq", _drop(W2 + "qzeros"), W2 + "qzeros"),
    Damage("one code flipped", "awq", _bit(W2 + "qweight", (7, 9), 2), W2 + "weight", False),
    Damage("one code of a query flipped", "awq", _bit(Q + "qweight", (7, 9), 6), Q + "weight", False),
    Damage("one code flipped", "awq-packed", _bit(W2 + "weight_packed", (7, 9), 2), W2 + "weight", False),
    Damage("packed in natural order", "awq", tensors(_awq_order), W1 + "weight", False),
    Damage(
        "packed along inputs",
        "awq",
        tensors(lambda t: t.__setitem__(W1 + "qweight", t[W1 + "qweight"].reshape(32, 256))),
        W1 + "qweight",
    ),
    Damage(
        "router not left out",
        "awq",
        _ignore(lambda e: [x for x in e if "gate" not in x], "modules_to_not_convert"),
        ROUTER,
    ),
    Damage("too much left out", "awq", _ignore(lambda e: [*e, "self_attn"], "modules_to_not_convert"), Q[:-1]),
    Damage("another group size", "awq", config(lambda c: c["quantization_config"].update(group_size=64)), "qzeros"),
    Damage("gate and up exchanged", "awq", tensors(lambda t: swap(t, W1, W3)), W1 + "weight", False),
    Damage(
        "scales of another expert",
        "awq",
        tensors(lambda t: swap(t, W1 + "scales", EXPERT.format(1, 4, "w1") + "scales")),
        W1 + "weight",
        False,
    ),
    Damage("weight shape missing", "awq-packed", _drop(W2 + "weight_shape"), W2 + "weight_shape"),
    Damage("packed zero points missing", "awq-packed", _drop(W2 + "weight_zero_point"), W2 + "weight_zero_point"),
    Damage(
        "weight shape wrong", "awq-packed", tensors(lambda t: t[W2 + "weight_shape"].fill_(128)), W2 + "weight", False
    ),
]

MODELOPT = [
    Damage(
        "global scale as compressed-tensors has it",
        "nvfp4-modelopt",
        tensors(lambda t: t[W2 + "weight_scale_2"].reciprocal_()),
        W2 + "weight_scale_2",
    ),
    Damage("global scales differ", "nvfp4-modelopt", _scaled(W3 + "weight_scale_2", 1.4), W3 + "weight_scale_2"),
    Damage("input scale missing", "nvfp4-modelopt", _drop(W2 + "input_scale"), W2 + "input_scale"),
    Damage(
        "hf_quant_config.json gone",
        "nvfp4-modelopt",
        lambda f: (f / "hf_quant_config.json").unlink(),
        "hf_quant_config.json",
    ),
    Damage(
        "hf_quant_config.json of another scheme",
        "nvfp4-modelopt",
        lambda f: edit_config(f, lambda c: c["quantization"].update(quant_algo="FP8"), "hf_quant_config.json"),
        "hf_quant_config.json",
    ),
    Damage("input scale missing", "fp8-modelopt", _drop(W2 + "input_scale"), W2 + "input_scale"),
    Damage("one code flipped", "nvfp4-modelopt", _bit(W2 + "weight", (7, 9), 6), W2 + "weight", False),
    Damage("one code flipped", "fp8-block", _bit(Q + "weight", (7, 9), 2), Q + "weight", False),
    Damage("weight scale doubled", "fp8-modelopt", _scaled(W2 + "weight_scale", 2.0), W2 + "weight", False),
    Damage("router not excluded", "fp8-modelopt", _ignore(lambda e: [x for x in e if "gate" not in x]), ROUTER),
    Damage(
        "a block's scale doubled",
        "fp8-block",
        tensors(lambda t: t[W2 + "weight_scale"][1, 0].mul_(2)),
        W2 + "weight",
        False,
    ),
    Damage(
        "block scales transposed",
        "fp8-block",
        tensors(
            lambda t: t.__setitem__(
                Q.replace("q_", "k_") + "weight_scale", t[Q.replace("q_", "k_") + "weight_scale"].reshape(2, 1)
            )
        ),
        Q.replace("q_", "k_") + "weight_scale",
    ),
]

BF16 = [
    Damage("a NaN", "bf16", _element(W2 + "weight", (3, 3), float("nan")), W2 + "weight"),
    Damage(
        "an infinity in the last layer",
        "bf16",
        _element(LAYER.format(1) + "self_attn.o_proj.weight", (0, 0), float("inf")),
        LAYER.format(1) + "self_attn.o_proj.weight",
    ),
    Damage("an expert of zeros", "bf16", tensors(lambda t: t[W2 + "weight"].zero_()), W2 + "weight", False),
    Damage(
        "experts exchanged",
        "bf16",
        tensors(lambda t: swap(t, MOE.format(0) + "experts.1.", MOE.format(0) + "experts.6.")),
        EXPERT.format(0, 1, "w1") + "weight",
        False,
    ),
    Damage("one weight's exponent flipped", "bf16", _bit(W3 + "weight", (17, 4), 13), W3 + "weight", False),
    Damage("correction bias missing", "bf16", _drop(BIAS), BIAS),
    Damage(
        "an expert copied over another",
        "bf16",
        tensors(lambda t: t.__setitem__(W1 + "weight", t[EXPERT.format(1, 4, "w1") + "weight"].clone())),
        W1 + "weight",
    ),
    Damage("a scale too many", "bf16", _set(W1 + "weight_scale", torch.ones(256, 1)), W1 + "weight_scale"),
    Damage(
        "a matrix transposed",
        "bf16",
        tensors(
            lambda t: t.__setitem__(
                LAYER.format(0) + "self_attn.k_proj.weight",
                t[LAYER.format(0) + "self_attn.k_proj.weight"].t().contiguous(),
            )
        ),
        LAYER.format(0) + "self_attn.k_proj.weight",
    ),
    Damage("reinitialised", "bf16", tensors(lambda t: t[W1 + "weight"].normal_(0, 0.02)), W1 + "weight", False),
]

CORPUS = [*FP8, *NVFP4, *AWQ, *MODELOPT, *BF16]
