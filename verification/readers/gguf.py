"""A GGUF file as float32 weights under names on disk: dequantized by gguf-py, stacks and permutations undone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from verification.gguf_file import Gguf
from verification.gguf_names import Place, place_of

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class _Source:
    """gguf: names of the tensors that make one on disk (two of a split kv_b_proj). expert: row block of a stack."""

    gguf: tuple[str, ...]
    place: Place
    expert: int | None


class GgufWeights:
    """See verification.weights.Weights."""

    def __init__(self, file: Gguf) -> None:
        self._file = file
        self._sources: dict[str, _Source] = {}
        for name, tensor in file.tensors.items():
            place = place_of(file.arch, name)
            if place is None:
                continue
            if place.stacked and len(tensor.shape) == 3:
                for expert in range(tensor.shape[0]):
                    self._sources[place.name.format(expert)] = _Source((name,), place, expert)
            elif place.half:
                known = self._sources.get(place.name)
                both = tuple(sorted({name, *(known.gguf if known else ())}))
                self._sources[place.name] = _Source(both, place, None)
            else:
                self._sources[place.name] = _Source((name,), place, None)

    def names(self) -> Iterable[str]:
        return self._sources

    def shape(self, name: str) -> tuple[int, ...]:
        source = self._sources[name]
        shape = self._file.tensors[source.gguf[0]].shape
        if source.place.half:
            heads, k, v, rank = self._latent(source)
            return heads * (k + v), rank
        return shape[1:] if source.expert is not None else shape

    def encoding(self, name: str) -> str:
        kind = self.dtype(name)
        return "" if kind in ("F32", "F16", "BF16") else kind

    def dtype(self, name: str) -> str:
        return self._file.tensors[self._sources[name].gguf[0]].type_name

    def nbytes(self, name: str) -> int:
        """Of the part of the file that holds this tensor: of a stack, its expert's share."""
        source = self._sources[name]
        whole = sum(self._file.tensors[part].nbytes for part in source.gguf)
        return whole // self._file.tensors[source.gguf[0]].shape[0] if source.expert is not None else whole

    def stored_as(self, name: str) -> str:
        """The GGUF tensor that holds this one on disk."""
        return " and ".join(self._sources[name].gguf)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        source = self._sources[name]
        if source.place.half:
            return self._joined(source)[start:stop]
        if source.expert is not None:
            (matrix,) = self._floats(source.gguf[0], source.expert, source.expert + 1)
            return matrix[start:stop]
        if source.place.rope:
            return self._paired(source)[start:stop]
        return self._floats(source.gguf[0], start, stop)

    def _floats(self, gguf_name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self._file.tensors[gguf_name]
        data = self._file.rows(gguf_name, start, stop)
        values = dequantize(data, GGMLQuantizationType(tensor.qtype))
        shape = (len(data), *tensor.shape[1:]) if tensor.shape else ()
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(shape).copy())

    def _paired(self, source: _Source) -> torch.Tensor:
        """Undo llama.cpp's interleaving of the two halves of every head."""
        rows = self._floats(source.gguf[0])
        kind = "attention.head_count_kv" if ".attn_k." in source.gguf[0] else "attention.head_count"
        heads = int(self._file.key(kind) or self._file.key("attention.head_count"))
        size = rows.shape[0] // heads
        pairs = rows.reshape(heads, size // 2, 2, *rows.shape[1:])
        return pairs.transpose(1, 2).reshape(rows.shape).contiguous()

    def _latent(self, source: _Source) -> tuple[int, int, int, int]:
        """(heads, key size without rotary part, value size, rank)."""
        k, v = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
        heads, rank, key = self._file.tensors[k].shape
        return heads, key, self._file.tensors[v].shape[1], rank

    def _joined(self, source: _Source) -> torch.Tensor:
        """kv_b_proj [heads * (k + v), rank] from attn_k_b [heads, rank, k] and attn_v_b [heads, v, rank]."""
        heads, k, v, rank = self._latent(source)
        k_name, v_name = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
        keys = self._floats(k_name).transpose(1, 2)
        return torch.cat((keys, self._floats(v_name)), 1).reshape(heads * (k + v), rank).contiguous()
