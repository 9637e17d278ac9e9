"""A GGUF file as float32 weights under names on disk: dequantized, stacks and permutations undone."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import prod

import torch

from sixfold.statistics.importance_matrix import MatrixEntry
from verification.reading.ggml_types import BLOCK_TYPES, decoded
from verification.reading.gguf import arranging
from verification.reading.gguf.arranging import StoredIn
from verification.reading.gguf.decoding import PLAIN, as_it_is, codes_of, decoded_blocks, floats, of_width
from verification.reading.gguf.place import Place, place_of
from verification.reading.gguf_file import Gguf
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


class GgufWeights:
    """See verification.reading.weights.Weights."""

    def __init__(
        self,
        file: Gguf,
        decoder: Mapping[str, str] | None = None,
        places: Callable[[str], Place | None] | None = None,
        multipliers: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """decoder: beginnings of names as the table has them -> as the source does, where towers lie beside the
        language model. places: of a name of the file; by default those of the table of its architecture.
        multipliers: see `multipliers_of`; None where the source is not known."""
        self._file, placed = file, places or partial(place_of, file.arch)
        self._multipliers = multipliers or {}
        self._sources: dict[str, StoredIn] = {}
        for name, tensor in file.tensors.items():
            place = placed(name)
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
                    self._sources[place.name.format(expert)] = StoredIn((name,), place, expert, share)
                    if place.also:
                        self._sources[place.also.format(expert)] = StoredIn((name,), place, expert, 1)
            elif place.half:
                known = self._sources.get(place.name)
                held = {name, *(known.gguf if known else ())}
                both = tuple(sorted(held, key=lambda part: place.half if (place := placed(part)) else ""))
                self._sources[place.name] = StoredIn(both, place, None)
            else:
                self._sources[place.name] = StoredIn((name,), place, None)

    def names(self) -> Iterable[str]:
        return self._sources

    def shape(self, name: str) -> tuple[int, ...]:
        source = self._sources[name]
        shape = self._file.tensors[source.gguf[0]].shape
        if source.place.half in ("k", "v"):
            heads, k, v, rank = arranging.latent(self._file, source)
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
        return "" if kind in PLAIN else kind

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
        if importance is not None and source.place.tiles == "columns":
            importance = arranging.key_by_key(self._file, importance)
        return Rounding("weighted", importance)

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
        held, factor = decoded_blocks(self._file, source.gguf[0], *rows, device=_CPU), self._multiplier(source)
        if held is not None and factor is not None:
            each = factor.float().view(-1, 1, 1)
            held = replace(held, scale=held.scale / each, base=None if held.base is None else held.base / each)
        return None if held is None else codes_of(held, self.dtype(name), arranging.arranged(self._file, source))

    def code_parts(self, name: str, weight: torch.Tensor) -> Iterator[tuple[Codes, torch.Tensor]]:
        source = self._sources[name]
        if not source.place.half:
            codes = self.codes(name)
            if codes is not None:
                yield codes, weight
            return
        for part in self.stored(name, weight):
            held = decoded_blocks(self._file, part.held_in, device=_CPU)
            codes = None if held is None else codes_of(held, part.encoding, as_it_is)
            if codes is not None:
                yield codes, part.values

    def stored(self, name: str, weight: torch.Tensor) -> Sequence[StoredPart]:
        source = self._sources[name]
        if not source.place.half:
            laid_out = arranging.turned(self._file, source, weight) if source.place.turned else weight
            laid_out = arranging.value_by_value(self._file, laid_out) if source.place.tiles == "columns" else laid_out
            return (StoredPart("", self.encoding(name), self.layout(name), laid_out),)
        if source.place.half in ("k", "v"):
            heads, k, v, rank = arranging.latent(self._file, source)
            whole = weight.view(heads, k + v, rank)
            keys, values = whole[:, :k].transpose(1, 2).reshape(-1, k), whole[:, k:].reshape(-1, rank)
            parts = [keys if "attn_k_b" in part else values for part in source.gguf]
        else:
            stacked = torch.empty_like(weight)
            stacked[arranging.order(self._file, source)] = weight
            parts = list(stacked.split([self._file.tensors[part].shape[0] for part in source.gguf]))
        kinds = (self._file.tensors[part].type_name for part in source.gguf)
        return [
            StoredPart(part, "" if kind in PLAIN else kind, layout_of_ggml(kind), values)
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
        held = of_width(decoded(kind, data), columns)
        if not permuted:
            whole = Stack(held.values, codes_of(held, kind, as_it_is))
            return whole if sources[0].expert is None else whole.part(rows)

        def arranged(whole: torch.Tensor) -> torch.Tensor:
            each = zip(sources, whole.split(count), strict=True)
            return torch.cat([arranging.paired(self._file, source, one) for source, one in each])

        return Stack(arranged(held.values), codes_of(held, kind, arranged)).part(rows)

    def _bytes_into(self, name: str, out: torch.Tensor) -> None:
        source = self._sources[name]
        self._file.read_into(source.gguf[0], source.expert or 0, out)

    def _read(self, name: str, start: int, stop: int | None, device: torch.device) -> torch.Tensor:
        source = self._sources[name]
        if source.place.half.isdigit():
            stacked = torch.cat([floats(self._file, part, device=device) for part in source.gguf])
            return stacked[arranging.order(self._file, source).to(device)][start:stop]
        if source.place.half:
            return arranging.joined(self._file, source, device)[start:stop]
        if source.expert is not None:
            (matrix,) = floats(self._file, source.gguf[0], source.expert, source.expert + 1, device=device)
            return arranging.arranged(self._file, source)(matrix)[start:stop]
        if (factor := self._multiplier(source)) is not None:
            held = floats(self._file, source.gguf[0], device=device)
            return (held / factor.to(device, torch.float32).view(-1, 1))[start:stop]
        if source.place.rope or source.place.tiles or source.place.turned or source.place.joined:
            held = floats(self._file, source.gguf[0], device=device)
            arranged = arranging.arranged(self._file, source)(held.flatten(0, 1) if source.place.joined else held)
            return arranging.changed(source, arranged)[start:stop]
        if source.place.several:
            return floats(self._file, source.gguf[0], device=device)[0][start:stop]
        if source.place.flat:
            return arranging.changed(source, floats(self._file, source.gguf[0], device=device).flatten())[start:stop]
        return arranging.changed(source, floats(self._file, source.gguf[0], start, stop, device=device))

    def _multiplier(self, source: StoredIn) -> torch.Tensor | None:
        return self._multipliers.get(source.gguf[0].split(".")[-2]) if source.gguf[0].endswith(".weight") else None
