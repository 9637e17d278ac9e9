"""An artifact seen as float32 weights under the architecture's own names on disk, read tensor by tensor."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from verification.reading.declared import AWQ, MODELOPT, Scheme
from verification.reading.plain_rounding import Layout, layout_of_scheme
from verification.reading.safetensors_formats import dequantize_linear
from verification.reading.stack import ALL, Stack, gathered
from verification.reading.stacked_parts import can_be_stacked, stacked_parts
from verification.reading.stated_rounding import Rounding, stated_rounding
from verification.reading.stored_codes import Codes, Parts, codes_of
from verification.reading.stored_parts import QUANTIZED_PARTS, SCALES
from verification.reading.subject import Subject


@dataclass(frozen=True)
class Slack:
    """How far a plain value may be from the source's, as another number is stored that it is computed from: by so much,
    and by a share of itself."""

    absolute: float = 0.0
    relative: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.absolute or self.relative)

    def around(self, original: torch.Tensor) -> torch.Tensor:
        return self.absolute + self.relative * original.abs()


@dataclass(frozen=True)
class StoredPart:
    """What is stored as one matrix, whole or in part, of a weight. held_in: the name in the artifact, where the weight
    is in several; "" where it is one. encoding: as `Weights.encoding` says. values: float32 [rows, columns], in the
    layout in which its blocks lie."""

    held_in: str
    encoding: str
    layout: Layout | None
    values: torch.Tensor


class Weights(Protocol):
    """names: every tensor that can be read. quantized: whether a tensor is stored as something else than plain floats;
    `encoding` says as what ("" where it is plain)."""

    def names(self) -> Iterable[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def encoding(self, name: str) -> str: ...

    def dtype(self, name: str) -> str:
        """safetensors' name of the type that a plain tensor is stored in."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """float32 rows [start, stop) along the first dimension; a scalar is one row.

        Raises KeyError, ValueError or RuntimeError where what is stored does not make a tensor.
        """
        ...


@runtime_checkable
class OnDevice(Protocol):
    """Weights that can be dequantized where they are needed."""

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        """`Weights.read` of a whole tensor, computed on `device`; what there is nothing to compute of may be left on
        the CPU."""
        ...


def read_on(weights: Weights, device: torch.device, name: str) -> torch.Tensor:
    """A whole tensor, float32, computed on `device` if these weights can be."""
    return weights.read_on(device, name) if isinstance(weights, OnDevice) else weights.read(name)


@runtime_checkable
class Prepared(Weights, Protocol):
    """Weights that want to know which layer is read next."""

    def prepare(self, layer: int | None, wanted: Collection[str]) -> None:
        """layer: None for what is outside of the decoder layers. wanted: names that will be read of it."""
        ...

    def is_source(self, layer: int | None) -> bool:
        """Whether a layer that was prepared is known to hold what the source holds, bit for bit."""
        ...


@runtime_checkable
class Compared(Prepared, Protocol):
    """Weights that are compared with the source's as they are prepared."""

    @property
    def failed(self) -> bool:
        """Whether something so far is not what was made of the source."""
        ...


class CodedWeights(Weights, Protocol):
    """Weights that also tell how they are stored."""

    def codes(self, name: str) -> Codes | None:
        """Of a whole quantized weight; None where its codes need not be the nearest. Raises as `read` does."""
        ...

    def code_parts(self, name: str, weight: torch.Tensor) -> Iterator[tuple[Codes, torch.Tensor]]:
        """The codes of what a weight is stored as, each beside its part of `weight` (float32, of its whole shape) in
        the same layout: of most one, of a split kv_b_proj two. Raises as `read` does."""
        ...

    def stored(self, name: str, weight: torch.Tensor) -> Sequence[StoredPart]:
        """`weight` (float32, of the shape of a quantized weight) as the artifact lays it out, where other weights than
        neighbors on disk may lie in a block. Of one that is not stored in several matrices, single rows will do."""
        ...

    def stack_of(self, name: str) -> Hashable | None:
        """What a matrix has in common with those that it can be read together with; None where it is read by itself."""
        ...

    def stack(self, names: Sequence[str], device: torch.device, rows: slice = ALL) -> Stack:
        """Of weights of which `stack_of` says the same, in this order, on `device`; `rows` of a single one. Raises as
        `read` does."""
        ...

    def layout(self, name: str) -> Layout | None:
        """How a quantized weight is stored; None for a format that plain rounding does not know."""
        ...

    def rounding(self, name: str) -> Rounding:
        """How it was rounded, as far as the artifact says."""
        ...

    def slack(self, name: str) -> Slack: ...

    def alike(self, name: str) -> bool:
        """Whether all blocks of a quantized weight are stored alike, as those of zeros are. Raises as `read` does."""
        ...


class Wrapped:
    """An artifact's weights, as it says they are: for what does more than reading them, or reads some otherwise."""

    def __init__(self, weights: CodedWeights) -> None:
        self._weights = weights

    def names(self) -> Iterable[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def encoding(self, name: str) -> str:
        return self._weights.encoding(name)

    def dtype(self, name: str) -> str:
        return self._weights.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._weights.read(name, start, stop)


class FolderWeights:
    """Of a model folder: plain tensors as they are, quantized Linears by their scheme in config.json."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._encodings: dict[str, str] = {}
        folder = subject.folder
        for module, suffixes in subject.modules.items():
            weight = folder.tensors.get(f"{module}.weight")
            scheme = subject.declared.scheme_of(module) if subject.is_quantized(module) else None
            if scheme is not None:
                self._encodings[f"{module}.weight"] = _encoding(scheme.format, scheme.method)
            elif weight is not None and weight.dtype in TORCH_DTYPES and not suffixes & QUANTIZED_PARTS:
                self._encodings[f"{module}.weight"] = ""
            for suffix in suffixes - QUANTIZED_PARTS - {"weight"}:
                name = f"{module}.{suffix}" if module else suffix
                if folder.readable(name):
                    self._encodings[name] = ""

    def names(self) -> Iterable[str]:
        return self._encodings

    def shape(self, name: str) -> tuple[int, ...]:
        blueprint = self.subject.blueprint
        if self._encodings[name] and blueprint is not None and name in blueprint.tensors:
            return blueprint.tensors[name]
        tensors = self.subject.folder.tensors
        if name in tensors:
            return tensors[name].shape
        module = name.removesuffix(".weight")  # a Linear that the architecture does not know: as large as its parts
        parts = [tensors[f"{module}.{suffix}"] for suffix in self.subject.modules[module]]
        return max(parts, key=lambda part: part.nbytes).shape

    def encoding(self, name: str) -> str:
        return self._encodings[name]

    def dtype(self, name: str) -> str:
        return self.subject.folder.tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        folder = self.subject.folder
        if not self._encodings[name]:
            stored = folder.tensors[name]
            rows = stored.shape[0] if stored.shape else 1
            return folder.weights.rows(stored, start, rows if stop is None else stop).float()
        return dequantize_linear(*self._parts(name))[start:stop]

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        if not self._encodings[name]:  # converted there: half of the bytes are moved
            return self.read(name) if device.type == "cpu" else self.subject.folder.read(name).to(device).float()
        scheme, parts = self._parts(name)
        return dequantize_linear(scheme, {suffix: part.to(device) for suffix, part in parts.items()})

    def codes(self, name: str) -> Codes | None:
        return codes_of(*self._parts(name))

    def code_parts(self, name: str, weight: torch.Tensor) -> Iterator[tuple[Codes, torch.Tensor]]:
        codes = self.codes(name)
        if codes is not None:
            yield codes, weight

    def stored(self, name: str, weight: torch.Tensor) -> Sequence[StoredPart]:
        return (StoredPart("", self.encoding(name), self.layout(name), weight),)

    def stack_of(self, name: str) -> Hashable | None:
        module = name.removesuffix(".weight")
        scheme, shape = self.subject.declared.scheme_of(module), self.shape(name)
        if not self._encodings[name]:
            return ("", self.dtype(name), shape) if len(shape) == 2 else None
        suffixes = self.subject.modules[module]
        if scheme is None or len(shape) != 2 or not can_be_stacked(scheme, suffixes, shape[0]):
            return None
        group = 0 if scheme.method == MODELOPT else id(scheme.weights)  # ModelOpt's algorithm says it all
        return scheme.format, group, shape, frozenset(suffixes)

    def stack(self, names: Sequence[str], device: torch.device, rows: slice = ALL) -> Stack:
        folder = self.subject.folder
        if not self._encodings[names[0]]:
            stored = folder.tensors[names[0]]
            held = gathered(names, stored.shape, TORCH_DTYPES[stored.dtype], folder.read_into, device)
            return Stack(held.flatten(0, 1).float(), None).part(rows)
        modules = [name.removesuffix(".weight") for name in names]
        scheme = self.subject.declared.scheme_of(modules[0])
        if scheme is None:
            raise KeyError(names[0])
        suffixes = self.subject.modules[modules[0]]
        parts = stacked_parts(scheme, folder, modules, suffixes, self.shape(names[0])[0], device)
        codes = codes_of(scheme, parts)
        if codes is None or codes.base.numel() > 1 or scheme.method == MODELOPT:
            return Stack(dequantize_linear(scheme, parts), codes).part(rows)
        return Stack(codes.numbers * codes.scale, codes).part(rows)

    def layout(self, name: str) -> Layout | None:
        scheme = self.subject.declared.scheme_of(name.removesuffix(".weight"))
        return None if scheme is None else layout_of_scheme(scheme)

    def rounding(self, name: str) -> Rounding:
        return self._rounding

    @cached_property
    def _rounding(self) -> Rounding:
        stated = stated_rounding(self.subject.folder.path)
        clips = self.subject.declared.method == AWQ or stated == "clipped"
        if stated in ("compensated", "rounded-inputs"):
            return Rounding(stated)
        return Rounding("clipped" if clips else "nearest")

    def slack(self, name: str) -> Slack:
        return Slack()

    def alike(self, name: str) -> bool:
        _, parts = self._parts(name)
        scales = (part.float() for suffix, part in parts.items() if suffix in SCALES and part.numel())
        return all(bool((scale == scale.flatten()[0]).all()) for scale in scales)

    def _parts(self, name: str) -> tuple[Scheme, Parts]:
        """The scheme of a quantized weight, and all that is stored of it."""
        module = name.removesuffix(".weight")
        scheme = self.subject.declared.scheme_of(module)
        if scheme is None:
            raise KeyError(name)
        suffixes = self.subject.modules[module]
        return scheme, {s: self.subject.folder.read(f"{module}.{s}") for s in suffixes if s != "bias"}


def _encoding(layout: str, method: str) -> str:
    """fp8, nvfp4, mxfp4 or int4/int8: what decides how exact a format can be."""
    lowered = layout.lower()
    if "nvfp4" in lowered:
        return "nvfp4"
    if "mxfp4" in lowered:
        return "mxfp4"
    if method == "awq" or lowered == "pack-quantized":
        return "int4"
    return "fp8" if "float" in lowered or "fp8" in lowered or lowered == "naive-quantized" else "int8"
