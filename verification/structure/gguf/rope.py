"""Whether the factors that llama.cpp divides rotary frequencies by are numbers, and those of the source's config.json.

No checkpoint holds them, so that nothing else compares them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.gguf.own import COMPUTED
from verification.structure.gguf.expected import head_size, rope_of
from verification.structure.gguf.subject import GgufSubject

_NAME = "rope_freqs.weight"
_CLOSE = 1e-4
"""Relative: the converter computes them in float32."""


def check_factors(subject: GgufSubject) -> Iterator[Finding]:
    file = subject.file
    consequence = "every answer becomes NaN, or long contexts break"
    for name in COMPUTED:
        held = _floats(subject, name)
        if held is None:
            continue
        if not np.isfinite(held).all() or (held <= 0).any():
            what = "not all of its factors are finite and positive"
            yield Finding("weights.not-finite", name, what, consequence, EXPORT_AGAIN)
            return
        turned = file.key("rope.dimension_count") or file.key("attention.key_length")
        if isinstance(turned, int) and held.size != turned // 2:
            what = f"it holds {held.size} factors, and {turned} channels are rotated"
            yield Finding("plain.shape", name, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
            return
    if not subject.config:
        return
    rope, held = rope_of(subject.config), _floats(subject, _NAME)
    kind = rope["rope_type"]
    if kind not in ("llama3", "proportional"):
        if held is not None and not np.allclose(held, 1.0):
            what = "it scales rotary frequencies, and the source does not"
            yield Finding("names.unknown", _NAME, what, consequence, EXPORT_AGAIN)
    elif held is None:
        what = f"the source scales rotary frequencies ({kind}), and the file holds no factors"
        yield Finding("names.missing", _NAME, what, "long contexts break", EXPORT_AGAIN)
    else:
        size = head_size(subject.config)
        wanted = llama3_factors(rope, size) if kind == "llama3" else proportional_factors(rope, _of_full(subject, size))
        if held.size != wanted.size:
            what = f"it holds {held.size} factors, the source's head has {wanted.size}"
            yield Finding("plain.shape", _NAME, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
            return
        off = np.abs(held / wanted - 1)
        if float(off.max()) > _CLOSE:
            what = f"factor {int(off.argmax())} is {held[off.argmax()]:.6g}, the source's {wanted[off.argmax()]:.6g}"
            yield Finding("weights.error", _NAME, what, "long contexts break", EXPORT_AGAIN)


def _floats(subject: GgufSubject, name: str) -> Any:
    tensor = subject.file.tensors.get(name)
    if tensor is None or tensor.type_name != "F32":
        return None
    return np.frombuffer(subject.file.rows(name).tobytes(), np.float32)


def llama3_factors(rope: Mapping[str, Any], size: int) -> np.ndarray:
    """float64 [size / 2]: what frequency i, base^(-2i / size), is divided by. Waves longer than a part of the first
    context are stretched by `factor`, short ones not, those between by degrees (Llama 3.1's own definition)."""
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    before = float(rope["original_max_position_embeddings"])
    waves = 2 * math.pi * float(rope.get("rope_theta", 10000.0)) ** (np.arange(0, size, 2) / size)
    share = np.clip((before / waves - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1 - share) / factor + share)


def proportional_factors(rope: Mapping[str, Any], size: int) -> np.ndarray:
    """float64 [size / 2]: the first share of a head's pairs turns, the others hardly ever (conversion/gemma.py)."""
    turning = int(size * float(rope["partial_rotary_factor"]) / 2)
    return np.array([1.0] * turning + [1e30] * (size // 2 - turning))


def _of_full(subject: GgufSubject, size: int) -> int:
    """A head's size in layers with full attention, where the config states it for each layer."""
    own = (subject.config.get("per_layer_config") or {}).values()
    return int(next((fields["head_dim"] for fields in own if "head_dim" in fields), size))
