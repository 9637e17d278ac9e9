"""GGUF: headers, types, keys and blocks."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

from tests.verification.corpus.changes import Damage
from tests.verification.damage import GgufData, rewrite_gguf

A = "minimax-m2."
DS = "deepseek2."
Q4, Q8, Q6, Q3, IQ = ("gguf-q4_k_m", "gguf-q8_0", "gguf-q6_k", "gguf-q3_k_m", "gguf-iq4_xs")
DOWN, UP, GATE = (f"blk.1.ffn_{part}_exps.weight" for part in ("down", "up", "gate"))
F32 = GGMLQuantizationType.F32


def keys(**changed: Any) -> Callable[[Path], None]:
    """`A`'s keys with `__` for dots."""
    return lambda path: rewrite_gguf(path, {A + k.replace("__", "."): v for k, v in changed.items()})


def other(changed: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, changed)


def data(change: Callable[[GgufData], Any]) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, tensors=lambda d: (change(d), None)[1])


def listed(name: str, change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        values = list(GGUFReader(path).fields[name].contents())
        change(values)
        rewrite_gguf(path, {name: values})

    return do


def patched(change: Callable[[bytearray], Any]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    return do


def info(name: str, change: Callable[[bytearray, int, int], Any]) -> Callable[[Path], None]:
    """A tensor's entry in the header: change(bytes, place of its dimensions, place of its type)."""

    def do(path: Path) -> None:
        field = next(t.field for t in GGUFReader(path).tensors if t.name == name)
        sizes = [int(part.nbytes) for part in field.parts]
        content = bytearray(path.read_bytes())
        change(content, field.offset + sum(sizes[:3]), field.offset + sum(sizes[:4]))
        path.write_bytes(content)

    return do


def _dimensions_exchanged(content: bytearray, dims: int, kind: int) -> None:
    content[dims : dims + 8], content[dims + 8 : dims + 16] = content[dims + 8 : dims + 16], content[dims : dims + 8]


def _type(number: int) -> Callable[[bytearray, int, int], None]:
    return lambda content, dims, kind: struct.pack_into("<I", content, kind, number)


def floats(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return data(lambda d: d.__setitem__(name, (np.ascontiguousarray(change(d[name][0].view(np.float32))), F32)))


def rows(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The bytes of a tensor, row by row."""
    return data(lambda d: d.__setitem__(name, (np.ascontiguousarray(change(d[name][0])), d[name][1])))


def byte(name: str, at: int, change: Callable[[int], int]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        offset = next(t.data_offset for t in GGUFReader(path).tensors if t.name == name)
        content = bytearray(path.read_bytes())
        content[offset + at] = change(content[offset + at]) & 255
        path.write_bytes(content)

    return do


def swap(one: str, two: str) -> Callable[[Path], None]:
    return data(lambda d: d.update({one: d[two], two: d[one]}))


def _layers_swapped(d: GgufData) -> None:
    for name in [n for n in d if n.startswith("blk.0.")]:
        there = name.replace("blk.0.", "blk.1.")
        if d[name][1] == d[there][1]:
            d[name], d[there] = d[there], d[name]


def _expert_of_the_other_layer(d: GgufData) -> None:
    for part in ("down", "up", "gate"):
        one, two = d[f"blk.1.ffn_{part}_exps.weight"], d[f"blk.0.ffn_{part}_exps.weight"]
        if one[0].shape == two[0].shape:
            one[0][3] = two[0][3]


def _blocks(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The first two blocks of the first row exchanged."""

    def change(held: np.ndarray) -> np.ndarray:
        flat = held.reshape(-1)
        flat[: 2 * size] = np.roll(flat[: 2 * size], size)
        return held

    return change


def _scale_and_minimum(held: np.ndarray) -> np.ndarray:
    flat = held.reshape(-1)
    flat[:4] = np.roll(flat[:4], 2)
    return held


def _heads(held: np.ndarray) -> np.ndarray:
    held[:128] = np.roll(held[:128], 64, 0)
    return held


def _bits(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight", 1))


def _twice(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_k_norm.weight", b"blk.0.attn_k_norm.weight", 1))


def _key_twice(path: Path) -> None:
    path.write_bytes(
        path.read_bytes().replace(b"minimax-m2.expert_used_count", b"minimax-m2.expert_count\0\0\0\0\0", 1)
    )


def _count(place: int, change: int) -> Callable[[bytearray], None]:
    def do(content: bytearray) -> None:
        struct.pack_into("<Q", content, place, struct.unpack_from("<Q", content, place)[0] + change)

    return do


def _broken_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"<|im_start|>", b"<|im_sta\xff\xfe|>", 1))


GGUF = [
    Damage("norms called integers", Q4, info("blk.0.attn_norm.weight", _type(26)), "blk.0.attn_norm.weight", True),
    Damage("norms called BF16 twice as long", Q8, info("blk.0.attn_norm.weight", _type(30)), "", True),
    Damage("a type that is not one", Q4, info(UP, _type(99)), "", True),
    Damage("a type that was removed", Q4, info(UP, _type(31)), "", True),
    Damage("Q6_K called Q5_K", Q6, info(UP, _type(13)), "", True),
    Damage("dimensions exchanged", Q8, info("token_embd.weight", _dimensions_exchanged), "token_embd.weight", True),
    Damage(
        "dimensions exchanged in values",
        Q8,
        info("blk.0.attn_v.weight", _dimensions_exchanged),
        "attn_v|value_length",
        True,
    ),
    Damage("a tensor fewer in the header", Q4, patched(_count(8, -1)), "", True),
    Damage("a key fewer in the header", Q4, patched(_count(16, -1)), "", True),
    Damage("another version", Q4, patched(lambda c: struct.pack_into("<I", c, 4, 7)), "", True),
    Damage("the other end first", Q4, patched(lambda c: struct.pack_into(">I", c, 4, 3)), "", True),
    Damage("a million tensors", Q4, patched(lambda c: struct.pack_into("<Q", c, 8, 1 << 20)), "", True),
    Damage("a name that is not looked for", Q4, _bits, "attn_Q", True),
    Damage("one name twice", Q4, _twice, "attn_k_norm", True),
    Damage("text that is no UTF-8", Q4, _broken_text, "tokenizer.ggml.tokens", False),
    Damage("a tail of zeros", Q8, patched(lambda c: c.__setitem__(slice(len(c) - 4096, None), bytes(4096))), "", False),
    Damage(
        "a part of a split file alone",
        Q4,
        other({"split.count": 2, "split.no": 0, "split.tensors.count": 33}),
        "",
        True,
    ),
    Damage("half as many key heads", Q4, keys(attention__head_count_kv=1), "head_count_kv", True),
    Damage("twice as many key heads", Q8, keys(attention__head_count_kv=4), "head_count_kv", True),
    Damage("another embedding length", Q4, keys(embedding_length=512), "embedding_length", True),
    Damage("another length of experts", Q4, keys(expert_feed_forward_length=512), "feed_forward_length", True),
    Damage("head length halved", Q4, keys(attention__key_length=32), "attention.key_length", True),
    Damage(
        "YaRN",
        Q4,
        keys(rope__scaling__type="yarn", rope__scaling__factor=4.0, rope__scaling__original_context_length=1024),
        "rope.scaling",
        False,
    ),
    Damage("a window", Q8, keys(attention__sliding_window=64), "sliding_window", False),
    Damage("no experts used", Q4, keys(expert_used_count=0), "expert_used_count", True),
    Damage("negative epsilon", Q4, keys(attention__layer_norm_rms_epsilon=-1e-6), "epsilon", True),
    Damage("rope base zero", Q4, keys(rope__freq_base=0.0), "freq_base", True),
    Damage("odd number of rotated channels", Q4, keys(rope__dimension_count=31), "rope.dimension_count", True),
    Damage("one shared expert", Q4, keys(expert_shared_count=1), "expert_shared_count", False),
    Damage("gates scaled", Q8, keys(expert_weights_scale=2.0), "expert_weights_scale", False),
    Damage("a space put first", Q4, other({"tokenizer.ggml.add_space_prefix": True}), "add_space_prefix", False),
    Damage(
        "spaces removed",
        Q4,
        other({"tokenizer.ggml.remove_extra_whitespaces": True}),
        "remove_extra_whitespaces",
        False,
    ),
    Damage(
        "scores of another vocabulary", Q4, other({"tokenizer.ggml.scores": [0.0] * 100}), "tokenizer.ggml.scores", True
    ),
    Damage(
        "fewer types of tokens",
        Q4,
        listed("tokenizer.ggml.token_type", lambda v: v.pop()),
        "tokenizer.ggml.token_type",
        True,
    ),
    Damage(
        "a type of token that is not one",
        Q8,
        listed("tokenizer.ggml.token_type", lambda v: v.__setitem__(9, 77)),
        "tokenizer.ggml.token_type",
        True,
    ),
    Damage(
        "one token twice",
        Q4,
        listed("tokenizer.ggml.tokens", lambda v: v.__setitem__(700, v[701])),
        "tokenizer.ggml.tokens",
        True,
    ),
    Damage("a merge gone", Q4, listed("tokenizer.ggml.merges", lambda v: v.pop(500)), "tokenizer.ggml.merges", False),
    Damage(
        "a merge of what is not there",
        Q8,
        listed("tokenizer.ggml.merges", lambda v: v.__setitem__(500, "qqqq zzzz")),
        "tokenizer.ggml.merges",
        True,
    ),
    Damage(
        "a merge of three",
        Q8,
        listed("tokenizer.ggml.merges", lambda v: v.__setitem__(500, "a")),
        "tokenizer.ggml.merges",
        True,
    ),
    Damage("an unknown token", Q8, other({"tokenizer.ggml.unknown_token_id": 5}), "unknown_token_id", False),
    Damage("padding outside", Q8, other({"tokenizer.ggml.padding_token_id": 4000}), "padding_token_id", True),
    Damage(
        "template that cannot be read",
        Q4,
        other({"tokenizer.chat_template": "{% if %}"}),
        "tokenizer.chat_template",
        True,
    ),
    Damage(
        "a template's role",
        Q4,
        lambda p: rewrite_gguf(
            p,
            {
                "tokenizer.chat_template": str(GGUFReader(p).fields["tokenizer.chat_template"].contents()).replace(
                    "assistant", "user"
                )
            },
        ),
        "tokenizer.chat_template",
        False,
    ),
    Damage(
        "frequencies of ones",
        Q4,
        data(lambda d: d.__setitem__("rope_freqs.weight", (np.full(16, 4, np.float32), F32))),
        "rope_freqs.weight",
        False,
    ),
    Damage(
        "frequencies of another length",
        Q4,
        data(lambda d: d.__setitem__("rope_freqs.weight", (np.ones(7, np.float32), F32))),
        "rope_freqs.weight",
        True,
    ),
    Damage("no output", Q4, data(lambda d: d.pop("output.weight")), "lm_head.weight", False),
    Damage(
        "bias without its suffix",
        Q4,
        data(lambda d: d.__setitem__("blk.1.exp_probs_b", d.pop("blk.1.exp_probs_b.bias"))),
        "exp_probs_b",
        True,
    ),
    Damage("layers exchanged", Q8, data(_layers_swapped), "layers.0", False),
    Damage("an expert of the other layer", Q8, data(_expert_of_the_other_layer), "_exps", True),
    Damage(
        "biases of two layers exchanged",
        Q4,
        swap("blk.0.exp_probs_b.bias", "blk.1.exp_probs_b.bias"),
        "correction_bias",
        False,
    ),
    Damage(
        "norms of queries exchanged", Q4, swap("blk.0.attn_q_norm.weight", "blk.1.attn_q_norm.weight"), "q_norm", False
    ),
    Damage(
        "norms of two layers exchanged",
        Q6,
        swap("blk.0.attn_norm.weight", "blk.1.attn_norm.weight"),
        "input_layernorm",
        False,
    ),
    Damage(
        "keys of the other layer",
        Q8,
        data(lambda d: d.__setitem__("blk.0.attn_k.weight", d["blk.1.attn_k.weight"])),
        "k",
        True,
    ),
    Damage(
        "values in the place of keys",
        Q8,
        data(lambda d: d.__setitem__("blk.0.attn_k.weight", d["blk.0.attn_v.weight"])),
        "k",
        True,
    ),
    Damage("heads of keys exchanged", Q8, rows("blk.0.attn_k.weight", _heads), "k_proj", False),
    Damage("router negated", Q4, floats("blk.0.ffn_gate_inp.weight", np.negative), "block_sparse_moe.gate", False),
    Damage(
        "router's column of zeros",
        Q8,
        floats("blk.0.ffn_gate_inp.weight", lambda x: np.where(np.arange(x.shape[-1]) == 5, 0, x).astype(np.float32)),
        "block_sparse_moe.gate",
        False,
    ),
    Damage(
        "a norm a hundredth off",
        Q3,
        floats("blk.1.ffn_norm.weight", lambda x: x * np.float32(1.01)),
        "post_attention_layernorm",
        False,
    ),
    Damage("last norm of ones", IQ, floats("output_norm.weight", np.ones_like), "model.norm", False),
    Damage(
        "half of a bias", Q4, floats("blk.0.exp_probs_b.bias", lambda x: x * np.float32(0.5)), "correction_bias", False
    ),
    Damage(
        "a bias infinite",
        Q4,
        floats("blk.0.exp_probs_b.bias", lambda x: x + np.float32(np.inf)),
        "correction_bias",
        True,
    ),
    Damage("a group's scale flipped in Q6_K", Q6, byte(UP, 192, lambda b: b ^ 0x80), "experts.0.w3", False),
    Damage("blocks exchanged in Q8_0", Q8, rows("blk.0.attn_v.weight", _blocks(34)), "v_proj", False),
    Damage("blocks exchanged in Q4_K", Q4, rows(UP, _blocks(144)), "experts.0.w3", False),
    Damage("blocks exchanged in IQ4_XS", IQ, rows(UP, _blocks(136)), "experts.0.w3", False),
    Damage("scale and minimum exchanged in Q4_K", Q4, rows(UP, _scale_and_minimum), "experts.0.w3", False),
    Damage(
        "minimum zero in Q4_K",
        Q4,
        rows(UP, lambda x: (x.reshape(-1).__setitem__(slice(2, 4), 0), x)[1]),
        "experts.0.w3",
        False,
    ),
    Damage("high bits of a scale in IQ4_XS", IQ, byte(UP, 3, lambda b: b ^ 0x40), "experts.0.w3", False),
    Damage("high bits of codes in Q3_K", Q3, byte(UP, 3, lambda b: b ^ 0xFF), "experts.0.w3", False),
    Damage("scale negative in Q8_0", Q8, byte("blk.0.attn_v.weight", 1, lambda b: b ^ 0x80), "v_proj", False),
    Damage("scale infinite in IQ4_XS", IQ, byte(UP, 1, lambda b: 0x7C), "experts.0.w3", True),
    Damage(
        "a code flipped in Q8_0's embeddings", Q8, byte("token_embd.weight", 9, lambda b: b ^ 32), "embed_tokens", False
    ),
    Damage(
        "another gating function",
        "deepseek/gguf-q8_0",
        other({DS + "expert_gating_func": 1}),
        "expert_gating_func",
        False,
    ),
    Damage(
        "gates scaled by one",
        "deepseek/gguf-q8_0",
        other({DS + "expert_weights_scale": 1.0}),
        "expert_weights_scale",
        False,
    ),
    Damage(
        "no groups", "deepseek/gguf-q8_0", other({DS + "expert_group_used_count": 2}), "expert_group_used_count", False
    ),
    Damage(
        "YaRN's multiplier gone",
        "deepseek/gguf-q8_0",
        other({DS + "rope.scaling.yarn_log_multiplier": None}),
        "yarn_log_multiplier",
        False,
    ),
    Damage("another latent", "deepseek/gguf-q8_0", other({DS + "attention.kv_lora_rank": 64}), "kv_lora_rank", True),
    Damage(
        "another length of latent keys",
        "deepseek/gguf-q8_0",
        other({DS + "attention.key_length_mla": 64}),
        "key_length_mla",
        True,
    ),
    Damage("no dense layers", "deepseek/gguf-q8_0", other({DS + "leading_dense_block_count": 0}), "", True),
    Damage("two layers dense", "deepseek/gguf-q8_0", other({DS + "leading_dense_block_count": 2}), "", True),
    Damage(
        "halves of the shared expert exchanged",
        "deepseek/gguf-q8_0",
        swap("blk.1.ffn_gate_shexp.weight", "blk.1.ffn_up_shexp.weight"),
        "shared_experts",
        False,
    ),
    Damage(
        "keys of a latent's heads rolled",
        "deepseek/gguf-q8_0",
        rows("blk.1.attn_k_b.weight", lambda x: np.roll(x, 1, 0)),
        "kv_b",
        False,
    ),
    Damage(
        "values of a latent's heads rolled",
        "deepseek/gguf-q8_0",
        rows("blk.1.attn_v_b.weight", lambda x: np.roll(x, 1, 0)),
        "kv_b",
        False,
    ),
]
