"""Whatever is done to a GGUF file is found, and the right tensor or key is named."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from sixfold.model.source import Source
from tests.exporters.exported import silent
from tests.verification.artifacts import Artifacts
from tests.verification.damage import GgufData, copy_gguf, rewrite_gguf
from verification.verify import verify

ARCH = "minimax-m2"
DOWN, UP, GATE = (f"blk.1.ffn_{part}_exps.weight" for part in ("down", "up", "gate"))


@dataclass(frozen=True)
class Damage:
    """alone: whether it shows in the file itself."""

    name: str
    do: Callable[[Path], None]
    where: str
    alone: bool = True
    variant: str = "gguf-q4_k_m"


def keys(**changed: Any) -> Callable[[Path], None]:
    """Keys of the architecture, with `__` for the dots; None removes one."""
    return lambda path: rewrite_gguf(path, {f"{ARCH}.{k.replace('__', '.')}": v for k, v in changed.items()})


def other_keys(changed: dict[str, Any]) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, changed)


def tensors(change: Callable[[GgufData], Any]) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, tensors=lambda data: (change(data), None)[1])


def _byte(name: str, at: int, value: Callable[[int], int]) -> Callable[[Path], None]:
    """One byte of a tensor, in place."""

    def do(path: Path) -> None:
        offset = next(t.data_offset for t in GGUFReader(path).tensors if t.name == name)
        data = bytearray(path.read_bytes())
        data[offset + at] = value(data[offset + at])
        path.write_bytes(data)

    return do


def _swap(one: str, other: str) -> Callable[[Path], None]:
    def change(data: GgufData) -> None:
        data[one], data[other] = data[other], data[one]

    return tensors(change)


def _swap_experts(name: str, one: int, other: int) -> Callable[[Path], None]:
    return tensors(lambda data: data[name][0].__setitem__([one, other], data[name][0][[other, one]]))


def _float(name: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return tensors(
        lambda data: data.__setitem__(
            name, (np.ascontiguousarray(values(data[name][0].view(np.float32))), GGMLQuantizationType.F32)
        )
    )


def _layer_twice(data: GgufData) -> None:
    for name in [n for n in data if n.startswith("blk.0.")]:
        data[name.replace("blk.0.", "blk.1.")] = data[name]


def _paired(rows: np.ndarray) -> np.ndarray:
    """Rows of a head interleaved, as the converter does for "llama" and must not do here."""
    return rows.reshape(4, 2, 32, -1).swapaxes(1, 2).reshape(rows.shape)


def _router_quantized(data: GgufData) -> None:
    from gguf.quants import quantize

    kind = GGMLQuantizationType.Q8_0
    data["blk.0.ffn_gate_inp.weight"] = quantize(data["blk.0.ffn_gate_inp.weight"][0], kind), kind


def _tokens_swapped(path: Path) -> None:
    tokens = list(GGUFReader(path).fields["tokenizer.ggml.tokens"].contents())
    tokens[300], tokens[301] = tokens[301], tokens[300]
    rewrite_gguf(path, {"tokenizer.ggml.tokens": tokens})


def _types_changed(path: Path) -> None:
    kinds = list(GGUFReader(path).fields["tokenizer.ggml.token_type"].contents())
    kinds[5] = 3
    rewrite_gguf(path, {"tokenizer.ggml.token_type": kinds})


def _merges_swapped(path: Path) -> None:
    merges = list(GGUFReader(path).fields["tokenizer.ggml.merges"].contents())
    merges[5], merges[50] = merges[50], merges[5]
    rewrite_gguf(path, {"tokenizer.ggml.merges": merges})


def _template(path: Path) -> None:
    template = str(GGUFReader(path).fields["tokenizer.chat_template"].contents())
    rewrite_gguf(path, {"tokenizer.chat_template": template + " "})


def _offsets_exchanged(path: Path) -> None:
    """Of two tensors of one size, in the header."""
    infos = [tensor.field for tensor in GGUFReader(path).tensors if tensor.name in (UP, GATE)]
    one, other = (info.offset + sum(int(part.nbytes) for part in info.parts[:-1]) for info in infos)
    data = bytearray(path.read_bytes())
    data[one : one + 8], data[other : other + 8] = data[other : other + 8], data[one : one + 8]
    path.write_bytes(data)


def _relabeled(kind: GGMLQuantizationType) -> Callable[[Path], None]:
    """A type of as many bytes."""
    return tensors(lambda data: data.__setitem__(UP, (data[UP][0], kind)))


def _token_missing(path: Path) -> None:
    found = GGUFReader(path).fields
    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    rewrite_gguf(path, {name: list(found[name].contents())[:-1] for name in names})


CORPUS = [
    Damage("gating function missing", keys(expert_gating_func=None), "expert_gating_func"),
    Damage("softmax for sigmoid", keys(expert_gating_func=1), "expert_gating_func", alone=False),
    Damage("expert count wrong", keys(expert_count=6), "blk.0.ffn_"),
    Damage("expert count missing", keys(expert_count=None), "expert_count"),
    Damage("fewer experts used", keys(expert_used_count=1), "expert_used_count", alone=False),
    Damage("more experts used than there are", keys(expert_used_count=9), "expert_used_count"),
    Damage("a layer not counted", keys(block_count=1), "block_count"),
    Damage("a layer too many counted", keys(block_count=3), "blk.2"),
    Damage("rope base of another model", keys(rope__freq_base=5e6), "rope.freq_base", alone=False),
    Damage("whole heads rotated", keys(rope__dimension_count=64), "rope.dimension_count", alone=False),
    Damage("another epsilon", keys(attention__layer_norm_rms_epsilon=1e-5), "layer_norm_rms_epsilon", alone=False),
    Damage("head count wrong", keys(attention__head_count=8), "attention.head_count"),
    Damage("another context length", keys(context_length=2048), "context_length", alone=False),
    Damage("epsilon missing", keys(attention__layer_norm_rms_epsilon=None), "layer_norm_rms_epsilon"),
    Damage("chat template gone", other_keys({"tokenizer.chat_template": None}), "tokenizer.chat_template", alone=False),
    Damage("pre-tokenizer gone", other_keys({"tokenizer.ggml.pre": None}), "tokenizer.ggml.pre"),
    Damage("default pre-tokenizer", other_keys({"tokenizer.ggml.pre": "default"}), "tokenizer.ggml.pre"),
    Damage("merges gone", other_keys({"tokenizer.ggml.merges": None}), "tokenizer.ggml.merges"),
    Damage("end token outside", other_keys({"tokenizer.ggml.eos_token_id": 200020}), "tokenizer.ggml.eos_token_id"),
    Damage("tokens swapped", _tokens_swapped, "tokenizer.ggml.tokens", alone=False),
    Damage("a token missing", _token_missing, "token_embd.weight"),
    Damage("a type of token changed", _types_changed, "tokenizer.ggml.token_type", alone=False),
    Damage("merges swapped", _merges_swapped, "tokenizer.ggml.merges", alone=False),
    Damage("a space in the chat template", _template, "tokenizer.chat_template", alone=False),
    Damage("another end token", other_keys({"tokenizer.ggml.eos_token_id": 5}), "ggml.eos_token_id", alone=False),
    Damage("another first token", other_keys({"tokenizer.ggml.bos_token_id": 5}), "ggml.bos_token_id", alone=False),
    Damage("a first token put", other_keys({"tokenizer.ggml.add_bos_token": True}), "add_bos_token", alone=False),
    Damage("another pre-tokenizer", other_keys({"tokenizer.ggml.pre": "llama-bpe"}), "tokenizer.ggml.pre", alone=False),
    Damage("another tokenizer", other_keys({"tokenizer.ggml.model": "llama"}), "tokenizer.ggml.model", alone=False),
    Damage("another vocabulary's size", keys(vocab_size=2000), "vocab_size"),
    Damage("another size of heads", keys(attention__value_length=32), "attention.value_length", alone=False),
    Damage("fewer channels rotated", keys(rope__dimension_count=16), "rope.dimension_count", alone=False),
    Damage("a rope scaling added", keys(rope__scaling__type="linear"), "rope.scaling.type", alone=False),
    Damage("an unknown gating function", keys(expert_gating_func=7), "expert_gating_func", alone=False),
    Damage("another alignment", other_keys({"general.alignment": 64}), "blk.0."),
    Damage("offsets exchanged", _offsets_exchanged, "blk.1.ffn_gate_"),
    Damage("Q4_K called Q4_0", _relabeled(GGMLQuantizationType.Q4_0), "experts.0.w3"),
    Damage("Q4_K called IQ4_NL", _relabeled(GGMLQuantizationType.IQ4_NL), "experts.0.w3"),
    Damage("stacks of two layers exchanged", _swap(UP, UP.replace("1", "0")), "1.block_sparse_moe.experts.0.w3", False),
    Damage("norms exchanged", _swap("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), "input_layernorm", alone=False),
    Damage("output is the embeddings", _swap("output.weight", "token_embd.weight"), "lm_head", alone=False),
    Damage("bias rolled", _float("blk.1.exp_probs_b.bias", lambda x: np.roll(x, 1)), "correction_bias", alone=False),
    Damage("a norm's lowest bit", _byte("blk.0.attn_norm.weight", 2, lambda b: b ^ 1), "input_layernorm", alone=False),
    Damage("a block scale's bit flipped in Q4_K", _byte(UP, 4, lambda byte: byte ^ 8), "experts.0.w3", alone=False),
    Damage("quantization version gone", other_keys({"general.quantization_version": None}), "quantization_version"),
    Damage("bias missing", tensors(lambda d: d.pop("blk.1.exp_probs_b.bias")), "blk.1.exp_probs_b.bias"),
    Damage("norm missing", tensors(lambda d: d.pop("output_norm.weight")), "output_norm.weight"),
    Damage("router quantized", tensors(_router_quantized), "blk.0.ffn_gate_inp.weight"),
    Damage(
        "a name that is not looked for",
        tensors(lambda d: d.__setitem__("blk.0.extra.weight", d["output_norm.weight"])),
        "blk.0.extra.weight",
    ),
    Damage("bias of seven experts", _float("blk.1.exp_probs_b.bias", lambda x: x[:7]), "blk.1.exp_probs_b.bias"),
    Damage("norm of ones", _float("blk.0.attn_norm.weight", np.ones_like), "input_layernorm", alone=False),
    Damage(
        "a NaN in a norm",
        _float("blk.0.attn_norm.weight", lambda x: np.where(np.arange(256) == 3, np.nan, x)),
        "input_layernorm",
    ),
    Damage(
        "router rows permuted",
        _float("blk.0.ffn_gate_inp.weight", lambda x: np.roll(x, 1, 0)),
        "0.block_sparse_moe.gate",
        alone=False,
    ),
    Damage("experts exchanged", _swap_experts(DOWN, 2, 5), "1.block_sparse_moe.experts.2.w2", alone=False),
    Damage("gate and up exchanged", _swap(UP, GATE), "1.block_sparse_moe.experts.0.w1", alone=False),
    Damage("a layer written twice", tensors(_layer_twice), DOWN),
    Damage("an expert written twice", tensors(lambda d: d[DOWN][0].__setitem__(3, d[DOWN][0][4])), DOWN),
    Damage("scale NaN", _byte(UP, 1, lambda byte: 0x7E), "experts.0.w3"),
    Damage("scale infinite in Q6_K", _byte("output.weight", 209, lambda byte: 0x7F), "lm_head"),
    Damage("scale's exponent flipped", _byte(UP, 1, lambda byte: byte ^ 0x08), "experts.0.w3", alone=False),
    Damage("scale halved in Q8_0", _byte("blk.0.attn_k.weight", 1, lambda byte: byte - 4), "k_proj", alone=False),
    Damage(
        "a group's scale flipped in Q3_K",
        _byte(UP, 97, lambda byte: byte ^ 0xF0),
        "experts.0.w3",
        False,
        "gguf-q3_k_m",
    ),
    Damage(
        "scale's exponent flipped in IQ4_XS",
        _byte(UP, 1, lambda byte: byte ^ 0x08),
        "experts.0.w3",
        False,
        "gguf-iq4_xs",
    ),
    Damage(
        "scale's sign flipped in Q6_K", _byte(UP, 209, lambda byte: byte ^ 0x80), "experts.0.w3", False, "gguf-q6_k"
    ),
    Damage("one code flipped in Q4_K", _byte(UP, 20, lambda byte: byte ^ 4), "experts.0.w3", alone=False),
    Damage("one code flipped in Q8_0", _byte(UP, 20, lambda byte: byte ^ 16), "experts.0.w3", False, "gguf-q8_0"),
    Damage("one code flipped in Q6_K", _byte(UP, 20, lambda byte: byte ^ 8), "experts.0.w3", False, "gguf-q6_k"),
    Damage("one code flipped in Q3_K", _byte(UP, 20, lambda byte: byte ^ 1), "experts.0.w3", False, "gguf-q3_k_m"),
    Damage("one code flipped in IQ4_XS", _byte(UP, 20, lambda byte: byte ^ 4), "experts.0.w3", False, "gguf-iq4_xs"),
    Damage(
        "rows interleaved as for llama",
        tensors(
            lambda d: d.__setitem__(
                "blk.0.attn_q.weight",
                (np.ascontiguousarray(_paired(d["blk.0.attn_q.weight"][0])), d["blk.0.attn_q.weight"][1]),
            )
        ),
        "0.self_attn.q_proj",
        alone=False,
    ),
    Damage("cut short", lambda path: path.write_bytes(path.read_bytes()[:-1000]) and None, ".gguf"),
    Damage("cut in the header", lambda path: path.write_bytes(path.read_bytes()[:500]) and None, ".gguf"),
    Damage("not a GGUF", lambda path: path.write_bytes(b"GGML" + path.read_bytes()[4:]) and None, ".gguf"),
    Damage("only its owner can read it", lambda path: path.chmod(0o600), ".gguf"),
]


@pytest.mark.parametrize("damage", CORPUS, ids=lambda damage: damage.name.replace(" ", "-"))
def test_damage_is_named(damage: Damage, artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    path = copy_gguf(artifacts[damage.variant], tmp_path / "damaged.gguf")
    damage.do(path)
    if damage.alone:
        found = verify(path, None, silent).failures
        assert any(damage.where in finding.where for finding in found), found
    found = verify(path, demo, silent).failures
    assert any(damage.where in finding.where for finding in found), found


def test_rewriting_alone_is_no_damage(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    path = copy_gguf(artifacts["gguf-q4_k_m"], tmp_path / "same.gguf")
    rewrite_gguf(path)
    assert verify(path, demo, silent).findings == ()
