"""A GGUF file as float32 weights under names on disk: dequantized by gguf-py, stacks and permutations undone."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod

import numpy as np
import torch

from sixfold.statistics.importance_matrix import MatrixEntry
from verification.reading.gguf_file import Gguf
from verification.reading.gguf_names import Place, place_of
from verification.reading.plain_rounding import Layout, layout_of_ggml
from verification.reading.stated_rounding import NEAREST, Rounding, importance_beside, importance_of, stated_rounding
from verification.reading.stored_codes import Codes


@dataclass(frozen=True)
class _Grid:
    """Of a block type: its bytes, which of them hold codes ([start, stop)), and what these are filled with to make
    every code the one after the first; `zeroed` are filled with zeros too. numbers: what codes 0, 1, ... stand for."""

    block: int
    codes: tuple[int, int]
    second: int
    zeroed: tuple[int, int]
    numbers: tuple[int, ...]


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_GRIDS = {
    "Q8_0": _Grid(34, (2, 34), 1, (2, 2), tuple(range(-128, 128))),
    "Q4_0": _Grid(18, (2, 18), 0x11, (2, 2), tuple(range(-8, 8))),
    "Q4_1": _Grid(20, (4, 20), 0x11, (4, 4), tuple(range(16))),
    "Q5_0": _Grid(22, (6, 22), 0x11, (2, 6), tuple(range(-16, 16))),
    "Q5_1": _Grid(24, (8, 24), 0x11, (4, 8), tuple(range(32))),
    "IQ4_NL": _Grid(18, (2, 18), 0x11, (2, 2), _IQ4),
    "Q3_K": _Grid(110, (32, 96), 0x55, (0, 32), tuple(range(-4, 4))),
    "Q4_K": _Grid(144, (16, 144), 0x11, (16, 16), tuple(range(16))),
    "Q5_K": _Grid(176, (48, 176), 0x11, (16, 48), tuple(range(32))),
    "Q6_K": _Grid(210, (0, 128), 0x11, (128, 192), tuple(range(-32, 32))),
    "IQ4_XS": _Grid(136, (8, 136), 0x11, (8, 8), _IQ4),
}
"""Types whose codes llama.cpp rounds to nearest, after whatever search of scales (ggml-quants.c; blocks of
ggml-common.h). Q8_0 alone has its smallest number, -128, at another code than 0: its codes are signed bytes."""

_OF_CHANGES = 2.0**-20
"""float32 of one plus a norm's weight, or of an exponential, tells that weight or exponent to so much."""

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class _Source:
    """gguf: names of the tensors that make one on disk (two of one that the file holds in parts). expert: row block of
    a stack. share: which half of the rows there, of a stack that holds two matrices of each expert."""

    gguf: tuple[str, ...]
    place: Place
    expert: int | None
    share: int | None = None


_Edit = Callable[[np.ndarray], np.ndarray]
"""uint8 [rows, bytes] -> the same, changed."""


def _as_it_is(data: np.ndarray) -> np.ndarray:
    return data


def _filled(grid: _Grid, byte: int) -> _Edit:
    def edit(data: np.ndarray) -> np.ndarray:
        blocks = data.reshape(-1, grid.block).copy()
        blocks[:, slice(*grid.zeroed)] = 0
        blocks[:, slice(*grid.codes)] = byte
        return blocks.reshape(data.shape)

    return edit


def _nearest(held: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The number that each of `held`, which are numbers but for rounding, stands for.

    numbers: ascending integers. Looked up: searching for each takes longer than dequantizing it.
    """
    first, last = int(numbers[0]), int(numbers[-1])
    nearest = numbers[torch.bucketize(torch.arange(first, last + 1.0), (numbers[1:] + numbers[:-1]) / 2)]
    return nearest[(held.nan_to_num().round().clamp(first, last) - first).int()]


def _halves_of(arch: str, name: str) -> str:
    place = place_of(arch, name)
    return place.half if place is not None else ""


class GgufWeights:
    """See verification.reading.weights.Weights."""

    def __init__(self, file: Gguf, decoder: Mapping[str, str] | None = None) -> None:
        """decoder: beginnings of names as the table has them -> as the source does, where towers lie beside the
        language model."""
        self._file = file
        self._sources: dict[str, _Source] = {}
        for name, tensor in file.tensors.items():
            place = place_of(file.arch, name)
            if place is None:
                continue
            for begins, instead in (decoder or {}).items():
                if place.name.startswith(begins):
                    also = place.also and instead + place.also.removeprefix(begins)
                    place = replace(place, name=instead + place.name.removeprefix(begins), also=also)
                    break
            if place.stacked:
                for expert in range(tensor.shape[0]):
                    share = 0 if place.also else None
                    self._sources[place.name.format(expert)] = _Source((name,), place, expert, share)
                    if place.also:
                        self._sources[place.also.format(expert)] = _Source((name,), place, expert, 1)
            elif place.half:
                known = self._sources.get(place.name)
                held = {name, *(known.gguf if known else ())}
                both = tuple(sorted(held, key=lambda part: (_halves_of(file.arch, part) in ("v", "second"), part)))
                self._sources[place.name] = _Source(both, place, None)
            else:
                self._sources[place.name] = _Source((name,), place, None)

    def names(self) -> Iterable[str]:
        return self._sources

    def shape(self, name: str) -> tuple[int, ...]:
        source = self._sources[name]
        shape = self._file.tensors[source.gguf[0]].shape
        if source.place.half in ("k", "v"):
            heads, k, v, rank = self._latent(source)
            return heads * (k + v), rank
        if source.place.half:
            return sum(self._file.tensors[part].shape[0] for part in source.gguf), shape[1]
        if source.place.flat:
            return (prod(shape),)
        if source.place.convolution:
            return shape[0], 1, *shape[1:]
        if source.share is not None:
            return shape[1] // 2, *shape[2:]
        return shape[1:] if source.expert is not None else shape

    def encoding(self, name: str) -> str:
        kind = self.dtype(name)
        return "" if kind in ("F32", "F16", "BF16") else kind

    def dtype(self, name: str) -> str:
        """Of one that the file holds in parts of several types, that of the fewest bits."""
        parts = [self._file.tensors[part] for part in self._sources[name].gguf]
        return min(parts, key=lambda part: part.nbytes / prod(part.shape)).type_name

    def halves(self, name: str) -> tuple[str, str] | None:
        """Types of the halves of a split kv_b_proj, of keys and of values; None of every other tensor."""
        source = self._sources[name]
        if source.place.half not in ("k", "v") or len(source.gguf) != 2:
            return None
        k, v = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
        return self._file.tensors[k].type_name, self._file.tensors[v].type_name

    def nbytes(self, name: str) -> int:
        """Of the part of the file that holds this tensor: of a stack, its expert's share."""
        source = self._sources[name]
        whole = sum(self._file.tensors[part].nbytes for part in source.gguf)
        pieces = self._file.tensors[source.gguf[0]].shape[0] if source.expert is not None else 1
        return whole // (pieces if source.share is None else 2 * pieces)

    def stored_as(self, name: str) -> str:
        """The GGUF tensor that holds this one on disk."""
        return " and ".join(self._sources[name].gguf)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._read(name, start, stop)

    def layout(self, name: str) -> Layout | None:
        return layout_of_ggml(self.encoding(name))

    def rounding(self, name: str) -> Rounding:
        """By the importance matrix that the file names: with its entry where it lies beside the file."""
        named = self._file.keys.get("quantize.imatrix.file")
        if stated_rounding(self._file.path) == "compensated":
            return Rounding("compensated")
        if named is None:
            return NEAREST
        source = self._sources[name]
        entry = None if source.place.half in ("k", "v") else self._importance.get(source.gguf[0])
        importance = importance_of(entry, source.expert or 0)
        tiled = importance is not None and source.place.tiles == "columns"
        return Rounding("weighted", self._key_by_key(importance) if tiled and importance is not None else importance)

    @cached_property
    def _importance(self) -> Mapping[str, MatrixEntry]:
        return importance_beside(self._file.path, self._file.keys.get("quantize.imatrix.file"))

    def slack(self, name: str) -> float:
        return _OF_CHANGES if self._sources[name].place.change else 0.0

    def alike(self, name: str) -> bool:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        source = self._sources[name]
        rows = (0, None) if source.expert is None else (source.expert, source.expert + 1)
        for part in source.gguf:
            block = GGML_QUANT_SIZES[GGMLQuantizationType(self._file.tensors[part].qtype)][1]
            data = self._file.rows(part, *rows).reshape(-1, block)
            if source.share is not None:
                data = np.split(data, 2)[source.share]
            if not (data == data[0]).all():
                return False
        return True

    def codes(self, name: str) -> Codes | None:
        if self._sources[name].place.half or self._sources[name].place.change:
            return None
        return self._codes(self.dtype(name), lambda edit: self._read(name, 0, None, edit))

    def code_parts(self, name: str, weight: torch.Tensor) -> Iterator[tuple[Codes, torch.Tensor]]:
        source = self._sources[name]
        if not source.place.half:
            codes = self.codes(name)
            if codes is not None:
                yield codes, weight
            return
        if source.place.half in ("first", "second"):
            stacked = torch.empty_like(weight)
            stacked[self._order(source)] = weight
            at = 0
            for gguf_name in source.gguf:
                tensor = self._file.tensors[gguf_name]
                codes = self._codes(tensor.type_name, partial(self._flat, gguf_name, tensor.shape[1]))
                if codes is not None:
                    yield codes, stacked[at : at + tensor.shape[0]]
                at += tensor.shape[0]
            return
        heads, k, v, rank = self._latent(source)
        whole = weight.view(heads, k + v, rank)
        halves = {"attn_k_b": whole[:, :k].transpose(1, 2).reshape(-1, k), "attn_v_b": whole[:, k:].reshape(-1, rank)}
        for gguf_name in source.gguf:
            part = next(part for half, part in halves.items() if half in gguf_name)
            kind = self._file.tensors[gguf_name].type_name
            codes = self._codes(kind, partial(self._flat, gguf_name, part.shape[1]))
            if codes is not None:
                yield codes, part

    def _flat(self, gguf_name: str, columns: int, edit: _Edit) -> torch.Tensor:
        return self._floats(gguf_name, edit=edit).reshape(-1, columns)

    def _codes(self, kind: str, read: Callable[[_Edit], torch.Tensor]) -> Codes | None:
        """What the numbers stand for is found by dequantizing the same blocks with other codes in them."""
        grid = _GRIDS.get(kind)
        if grid is None:
            return None
        first, second = (read(_filled(grid, byte)) for byte in (0, grid.second))
        at = grid.numbers.index(0) if grid.second == 1 else 0  # signed bytes: code 0 is the number 0
        numbers = torch.tensor(grid.numbers, dtype=torch.float32)
        scale = (second - first) / (numbers[at + 1] - numbers[at])
        base = first - numbers[at] * scale
        held = torch.where(scale != 0, (read(_as_it_is) - base) / scale, numbers[at])
        return Codes(_nearest(held, numbers), numbers, scale, base)

    def _read(self, name: str, start: int, stop: int | None, edit: _Edit = _as_it_is) -> torch.Tensor:
        source = self._sources[name]
        if source.place.half in ("first", "second"):
            return torch.cat([self._floats(part) for part in source.gguf])[self._order(source)][start:stop]
        if source.place.half:
            return self._joined(source)[start:stop]
        if source.expert is not None:
            (matrix,) = self._floats(source.gguf[0], source.expert, source.expert + 1, edit)
            return (matrix if source.share is None else matrix.chunk(2)[source.share])[start:stop]
        if source.place.rope:
            return self._paired(source, edit)[start:stop]
        if source.place.tiles:
            return self._changed(source, self._untiled(source, edit))[start:stop]
        if source.place.flat:
            return self._changed(source, self._floats(source.gguf[0], edit=edit).flatten())[start:stop]
        return self._changed(source, self._floats(source.gguf[0], start, stop, edit))

    def _changed(self, source: _Source, held: torch.Tensor) -> torch.Tensor:
        """Undo what llama.cpp's converter does to values and to the shape of convolutions."""
        if source.place.convolution:
            held = held.unsqueeze(1)
        if source.place.change == "minus exp":
            return (-held).log()
        return held - 1 if source.place.change == "plus one" else held

    def _order(self, source: _Source) -> torch.Tensor:
        """int64 [rows on disk]: which row of the file's parts, one behind the other, each of them is. Gates lie behind
        the rest, and of a delta net head by head: its queries, its keys, its values, what gates its output."""
        rows = torch.arange(sum(self._file.tensors[part].shape[0] for part in source.gguf))
        if ".attn_qkv." not in source.gguf[0]:
            return rows
        keys, size = int(self._file.key("ssm.group_count")), int(self._file.key("ssm.state_size"))
        first = self._file.tensors[source.gguf[0]].shape[0]
        sizes = [keys * size, keys * size, first - 2 * keys * size, len(rows) - first]
        return torch.cat([part.view(keys, -1) for part in rows.split(sizes)], 1).flatten()

    def _key_by_key(self, held: torch.Tensor) -> torch.Tensor:
        """[..., channels of values], those of a key together again."""
        keys, values = int(self._file.key("ssm.group_count")), int(self._file.key("ssm.time_step_rank"))
        return held.unflatten(-1, (values // keys, keys, -1)).transpose(-3, -2).flatten(-3)

    def _untiled(self, source: _Source, edit: _Edit) -> torch.Tensor:
        """A delta net's values [value of a key, key, ...] as [key, value of a key, ...] again."""
        held = self._floats(source.gguf[0], edit=edit)
        if source.place.tiles == "columns":
            return self._key_by_key(held).contiguous()
        keys, values = int(self._file.key("ssm.group_count")), int(self._file.key("ssm.time_step_rank"))
        first = 2 * keys * int(self._file.key("ssm.state_size")) if source.place.tiles == "rows behind keys" else 0
        tail = held[first:].unflatten(0, (values // keys, keys, -1)).transpose(0, 1).flatten(0, 2)
        return torch.cat([held[:first], tail])

    def _floats(self, gguf_name: str, start: int = 0, stop: int | None = None, edit: _Edit = _as_it_is) -> torch.Tensor:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self._file.tensors[gguf_name]
        data = edit(self._file.rows(gguf_name, start, stop))
        values = dequantize(data, GGMLQuantizationType(tensor.qtype))
        shape = (len(data), *tensor.shape[1:]) if tensor.shape else ()
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(shape).copy())

    def _paired(self, source: _Source, edit: _Edit) -> torch.Tensor:
        """Undo llama.cpp's interleaving of the two halves of every head."""
        rows = self._floats(source.gguf[0], edit=edit)
        kind = "attention.head_count_kv" if ".attn_k." in source.gguf[0] else "attention.head_count"
        stated = self._file.key(kind) or self._file.key("attention.head_count")
        heads = int(stated[int(source.gguf[0].split(".")[1])] if isinstance(stated, list) else stated)
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
