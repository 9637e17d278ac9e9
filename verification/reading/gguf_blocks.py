"""A GGUF file as float32 weights under names on disk: dequantized, stacks and permutations undone."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod

import numpy as np
import torch

from sixfold.statistics.importance_matrix import MatrixEntry
from verification.reading.ggml_types import BLOCK_TYPES, Decoded, decoded
from verification.reading.gguf_file import Gguf
from verification.reading.gguf_names import Place, place_of
from verification.reading.plain_rounding import Layout, layout_of_ggml
from verification.reading.stack import ALL, Stack, gathered
from verification.reading.stated_rounding import (
    NEAREST,
    Kind,
    Rounding,
    importance_beside,
    importance_of,
    stated_rounding,
)
from verification.reading.stored_codes import Codes
from verification.reading.weights import Slack, StoredPart

_OF_CHANGES = Slack(2.0**-20)
"""float32 of one plus a norm's weight, or of an exponential, tells that weight or exponent to so much."""

_OF_PRODUCTS = {"F32": Slack(0.0, 2.0**-21), "F16": Slack(2.0**-20, 2.0**-10), "BF16": Slack(0.0, 2.0**-7.9)}
"""A product that is rounded to such a type tells what was multiplied to so much."""

_CPU = torch.device("cpu")
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}


@dataclass(frozen=True)
class _Source:
    """gguf: names of the tensors that make one on disk (several where the file holds it in parts). expert: row block of
    a stack. share: which half of the rows there, of a stack that holds two matrices of each expert."""

    gguf: tuple[str, ...]
    place: Place
    expert: int | None
    share: int | None = None


_Arranged = Callable[[torch.Tensor], torch.Tensor]
"""float32 [rows, columns] as the file has them -> as the source has them."""


def _halves_of(arch: str, name: str) -> str:
    place = place_of(arch, name)
    return place.half if place is not None else ""


class GgufWeights:
    """See verification.reading.weights.Weights."""

    def __init__(
        self,
        file: Gguf,
        decoder: Mapping[str, str] | None = None,
        named_as: str = "",
        multipliers: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """decoder: beginnings of names as the table has them -> as the source does, where towers lie beside the
        language model. named_as: the table, where it is not that of the file's architecture. multipliers: see
        `multipliers_of`; None where the source is not known."""
        self._file, arch = file, named_as or file.arch
        self._multipliers = multipliers or {}
        self._sources: dict[str, _Source] = {}
        for name, tensor in file.tensors.items():
            place = place_of(arch, name)
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
                both = tuple(sorted(held, key=lambda part: _halves_of(arch, part)))
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
        if source.place.several:
            return shape[1], 1, shape[3]
        if source.share is not None:
            return shape[1] // 2, *shape[2:]
        if source.place.joined:
            experts, rows, columns = shape
            return (experts * columns, rows) if source.place.turned else (experts * rows, columns)
        if source.place.turned:
            return shape[::-1]
        return shape[1:] if source.expert is not None else shape

    def encoding(self, name: str) -> str:
        kind = self.dtype(name)
        return "" if kind in _PLAIN else kind

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
        return self._read(name, start, stop, _CPU)

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        return self._read(name, 0, None, device)

    def layout(self, name: str) -> Layout | None:
        return layout_of_ggml(self.encoding(name))

    def rounding(self, name: str) -> Rounding:
        """By the importance matrix that the file names: with its entry where it lies beside the file."""
        named = self._file.keys.get("quantize.imatrix.file")
        if self._stated == "compensated":
            return Rounding("compensated")
        if named is None:
            return NEAREST
        source = self._sources[name]
        entry = None if source.place.half in ("k", "v") else self._importance.get(source.gguf[0])
        importance = importance_of(entry, source.expert or 0)
        tiled = importance is not None and source.place.tiles == "columns"
        return Rounding("weighted", self._key_by_key(importance) if tiled and importance is not None else importance)

    @cached_property
    def _stated(self) -> Kind | None:
        return stated_rounding(self._file.path)

    @cached_property
    def _importance(self) -> Mapping[str, MatrixEntry]:
        return importance_beside(self._file.path, self._file.keys.get("quantize.imatrix.file"))

    def slack(self, name: str) -> Slack:
        source = self._sources[name]
        if self._multiplier(source) is not None:
            return _OF_PRODUCTS.get(self.dtype(name), Slack())
        return _OF_CHANGES if source.place.change else Slack()

    def alike(self, name: str) -> bool:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        source = self._sources[name]
        rows = (0, None) if source.expert is None else (source.expert, source.expert + 1)
        for part in source.gguf:
            block = GGML_QUANT_SIZES[GGMLQuantizationType(self._file.tensors[part].qtype)][1]
            data = self._file.stored(part, *rows).reshape(-1, block)
            if source.share is not None:
                data = data.chunk(2)[source.share]
            if not bool((data == data[0]).all()):
                return False
        return True

    def codes(self, name: str) -> Codes | None:
        source = self._sources[name]
        if source.place.half or source.place.change:
            return None
        rows = (0, None) if source.expert is None else (source.expert, source.expert + 1)
        held, factor = self._decoded(source.gguf[0], *rows, device=_CPU), self._multiplier(source)
        if held is not None and factor is not None:
            each = factor.float().view(-1, 1, 1)
            held = replace(held, scale=held.scale / each, base=None if held.base is None else held.base / each)
        return None if held is None else _codes(held, self.dtype(name), self._arranged(source))

    def code_parts(self, name: str, weight: torch.Tensor) -> Iterator[tuple[Codes, torch.Tensor]]:
        source = self._sources[name]
        if not source.place.half:
            codes = self.codes(name)
            if codes is not None:
                yield codes, weight
            return
        for part in self.stored(name, weight):
            held = self._decoded(part.held_in, device=_CPU)
            codes = None if held is None else _codes(held, part.encoding, _as_it_is)
            if codes is not None:
                yield codes, part.values

    def stored(self, name: str, weight: torch.Tensor) -> Sequence[StoredPart]:
        source = self._sources[name]
        if not source.place.half:
            laid_out = self._turned(source, weight) if source.place.turned else weight
            laid_out = self._value_by_value(laid_out) if source.place.tiles == "columns" else laid_out
            return (StoredPart("", self.encoding(name), self.layout(name), laid_out),)
        if source.place.half in ("k", "v"):
            heads, k, v, rank = self._latent(source)
            whole = weight.view(heads, k + v, rank)
            keys, values = whole[:, :k].transpose(1, 2).reshape(-1, k), whole[:, k:].reshape(-1, rank)
            parts = [keys if "attn_k_b" in part else values for part in source.gguf]
        else:
            stacked = torch.empty_like(weight)
            stacked[self._order(source)] = weight
            parts = list(stacked.split([self._file.tensors[part].shape[0] for part in source.gguf]))
        kinds = (self._file.tensors[part].type_name for part in source.gguf)
        return [
            StoredPart(part, "" if kind in _PLAIN else kind, layout_of_ggml(kind), values)
            for part, kind, values in zip(source.gguf, kinds, parts, strict=True)
        ]

    def stack_of(self, name: str) -> Hashable | None:
        source = self._sources[name]
        whole = (
            source.place.half
            or source.place.several
            or source.place.change
            or source.place.tiles
            or source.place.turned
            or source.place.joined
            or source.place.convolution
            or self._multiplier(source) is not None
        )
        if whole or source.share is not None or self.dtype(name) not in BLOCK_TYPES or len(self.shape(name)) != 2:
            return None
        return self.dtype(name), self.shape(name), source.place.rope

    def stack(self, names: Sequence[str], device: torch.device, rows: slice = ALL) -> Stack:
        sources = [self._sources[name] for name in names]
        kind, (count, columns) = self.dtype(names[0]), self.shape(names[0])
        permuted = bool(sources[0].place.rope)
        if rows != ALL and not permuted and sources[0].expert is None:
            data = self._file.stored(sources[0].gguf[0], *rows.indices(count)[:2]).to(device)
        else:
            each = gathered(names, (self.nbytes(names[0]),), torch.uint8, self._bytes_into, device)
            data = each.view(count * len(names), -1)
        held = _of_width(decoded(kind, data), columns)
        if not permuted:
            whole = Stack(held.values, _codes(held, kind, _as_it_is))
            return whole if sources[0].expert is None else whole.part(rows)

        def arranged(whole: torch.Tensor) -> torch.Tensor:
            each = whole.split(count)
            return torch.cat([self._paired(source, one) for source, one in zip(sources, each, strict=True)])

        return Stack(arranged(held.values), _codes(held, kind, arranged)).part(rows)

    def _bytes_into(self, name: str, out: torch.Tensor) -> None:
        source = self._sources[name]
        self._file.read_into(source.gguf[0], source.expert or 0, out)

    def _read(self, name: str, start: int, stop: int | None, device: torch.device) -> torch.Tensor:
        source = self._sources[name]
        if source.place.half.isdigit():
            stacked = torch.cat([self._floats(part, device=device) for part in source.gguf])
            return stacked[self._order(source).to(device)][start:stop]
        if source.place.half:
            return self._joined(source, device)[start:stop]
        if source.expert is not None:
            (matrix,) = self._floats(source.gguf[0], source.expert, source.expert + 1, device=device)
            return self._arranged(source)(matrix)[start:stop]
        if (factor := self._multiplier(source)) is not None:
            held = self._floats(source.gguf[0], device=device)
            return (held / factor.to(device, torch.float32).view(-1, 1))[start:stop]
        if source.place.rope or source.place.tiles or source.place.turned or source.place.joined:
            held = self._floats(source.gguf[0], device=device)
            arranged = self._arranged(source)(held.flatten(0, 1) if source.place.joined else held)
            return self._changed(source, arranged)[start:stop]
        if source.place.several:
            return self._floats(source.gguf[0], device=device)[0][start:stop]
        if source.place.flat:
            return self._changed(source, self._floats(source.gguf[0], device=device).flatten())[start:stop]
        return self._changed(source, self._floats(source.gguf[0], start, stop, device=device))

    def _multiplier(self, source: _Source) -> torch.Tensor | None:
        return self._multipliers.get(source.gguf[0].split(".")[-2]) if source.gguf[0].endswith(".weight") else None

    def _arranged(self, source: _Source) -> _Arranged:
        """To a whole tensor, or an expert's matrix."""
        if source.share is not None:
            return lambda held: held.chunk(2)[source.share or 0]
        if source.place.rope:
            return partial(self._paired, source)
        if source.place.turned:
            return partial(self._turned, source)
        return partial(self._untiled, source) if source.place.tiles else _as_it_is

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

    def _value_by_value(self, of_disk: torch.Tensor) -> torch.Tensor:
        """The way back."""
        keys, values = int(self._file.key("ssm.group_count")), int(self._file.key("ssm.time_step_rank"))
        return of_disk.unflatten(-1, (keys, values // keys, -1)).transpose(-3, -2).flatten(-3)

    def _turned(self, source: _Source, held: torch.Tensor) -> torch.Tensor:
        """Rows as columns, of matrices of a stack each by itself, from the file's rows or back."""
        matrices = self._file.tensors[source.gguf[0]].shape[0] if source.place.joined else 1
        return held.unflatten(0, (matrices, -1)).transpose(1, 2).flatten(0, 1).contiguous()

    def _untiled(self, source: _Source, held: torch.Tensor) -> torch.Tensor:
        """A delta net's values [value of a key, key, ...] as [key, value of a key, ...] again."""
        if source.place.tiles == "heads":
            heads = int(self._file.key("attention.head_count"))
            keys = int(self._file.key("attention.head_count_kv") or heads)
            size = held.shape[0] // (heads + 2 * keys)
            parts = held.split([heads * size, keys * size, keys * size])
            return torch.cat([part.unflatten(0, (keys, -1)) for part in parts], 1).flatten(0, 1)
        if source.place.tiles == "columns":
            return self._key_by_key(held).contiguous()
        keys, values = int(self._file.key("ssm.group_count")), int(self._file.key("ssm.time_step_rank"))
        first = 2 * keys * int(self._file.key("ssm.state_size")) if source.place.tiles == "rows behind keys" else 0
        tail = held[first:].unflatten(0, (values // keys, keys, -1)).transpose(0, 1).flatten(0, 2)
        return torch.cat([held[:first], tail])

    def _decoded(
        self, gguf_name: str, start: int = 0, stop: int | None = None, *, device: torch.device
    ) -> Decoded | None:
        """None of types of which no blocks are known here."""
        tensor = self._file.tensors[gguf_name]
        if tensor.type_name not in BLOCK_TYPES:
            return None
        data = self._file.stored(gguf_name, start, stop).to(device)
        block = BLOCK_TYPES[tensor.type_name].nbytes
        if not tensor.shape or data.numel() % block:
            raise ValueError(f"{gguf_name} is no blocks of {tensor.type_name}")
        return _of_width(decoded(tensor.type_name, data.reshape(1, -1)), tensor.shape[-1])

    def _floats(self, gguf_name: str, start: int = 0, stop: int | None = None, *, device: torch.device) -> torch.Tensor:
        tensor = self._file.tensors[gguf_name]
        held = self._decoded(gguf_name, start, stop, device=device)
        if held is not None:
            return held.values.reshape(-1, *tensor.shape[1:])
        data = self._file.stored(gguf_name, start, stop)
        shape = (len(data), *tensor.shape[1:]) if tensor.shape else ()
        plain = _PLAIN.get(tensor.type_name)
        if plain is not None:
            return data.flatten().view(plain).reshape(shape).to(device).float()
        return _by_gguf_py(data, tensor.qtype).reshape(shape).to(device)

    def _paired(self, source: _Source, rows: torch.Tensor) -> torch.Tensor:
        """Undo llama.cpp's interleaving of the two halves of every head, or its parting of neighbors."""
        kind = "attention.head_count_kv" if ".attn_k." in source.gguf[0] else "attention.head_count"
        stated = self._file.key(kind) or self._file.key("attention.head_count")
        heads = int(stated[int(source.gguf[0].split(".")[1])] if isinstance(stated, list) else stated)
        size = rows.shape[0] // heads
        whole, turning = rows.reshape(heads, size, *rows.shape[1:]), self._file.key("rope.dimension_count") or size
        parts = (2, turning // 2) if source.place.apart else (turning // 2, 2)
        turned = whole[:, :turning].unflatten(1, parts).transpose(1, 2).flatten(1, 2)
        return torch.cat([turned, whole[:, turning:]], 1).reshape(rows.shape)

    def _latent(self, source: _Source) -> tuple[int, int, int, int]:
        """(heads, key size without rotary part, value size, rank)."""
        k, v = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
        heads, rank, key = self._file.tensors[k].shape
        return heads, key, self._file.tensors[v].shape[1], rank

    def _joined(self, source: _Source, device: torch.device) -> torch.Tensor:
        """kv_b_proj [heads * (k + v), rank] from attn_k_b [heads, rank, k] and attn_v_b [heads, v, rank]."""
        heads, k, v, rank = self._latent(source)
        k_name, v_name = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
        keys = self._floats(k_name, device=device).transpose(1, 2)
        return torch.cat((keys, self._floats(v_name, device=device)), 1).reshape(heads * (k + v), rank).contiguous()


def _as_it_is(held: torch.Tensor) -> torch.Tensor:
    return held


def _of_width(held: Decoded, columns: int) -> Decoded:
    """Of rows of so many columns, whatever it was decoded as."""
    groups = columns // held.numbers.shape[-1]
    whole = (x if x is None else x.reshape(-1, groups, x.shape[-1]) for x in (held.numbers, held.scale, held.base))
    return Decoded(*whole)  # type: ignore[arg-type]


def _codes(held: Decoded, kind: str, arranged: _Arranged) -> Codes | None:
    numbers = BLOCK_TYPES[kind].numbers
    if numbers is None:
        return None
    width = held.numbers.shape[-1]

    def spread(of_groups: torch.Tensor) -> torch.Tensor:
        return arranged(of_groups.expand(-1, -1, width).flatten(1))

    base = torch.zeros(1, device=held.scale.device) if held.base is None else spread(held.base)
    grid = torch.tensor(numbers, dtype=torch.float32)
    return Codes(arranged(held.numbers.flatten(1)), grid, spread(held.scale), base)


def _by_gguf_py(data: torch.Tensor, qtype: int) -> torch.Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(data.numpy(), GGMLQuantizationType(qtype))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).copy())
