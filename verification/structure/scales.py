"""Whether scales are usable numbers, and equal where an engine keeps only one of several."""

from collections.abc import Iterator, Sequence

import torch

from sixfold.checkpoint.storage.safetensors_header import StoredTensor
from sixfold.model.architecture import Linear
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.declared import Scheme
from verification.reading.folder import Folder
from verification.reading.stored_parts import CACHE_SCALES, SCALES, is_nvfp4
from verification.reading.subject import Subject

_OUTLIER = 2.0**12
"""How many times the median of its siblings (the same projection of other experts and layers) a scale may be."""

_E4M3_NAN = 0x7F
"""Above all numbers of E4M3 that are not negative."""

_COUNT = 8
"""Siblings that a median needs."""


def check_finite(subject: Subject) -> Iterator[Finding]:
    """No NaN, infinity or negative scale."""
    for name, stored in _scales(subject.folder):
        if _all_positive(stored):
            continue
        scale = stored.float()
        bad = ~torch.isfinite(scale)
        if bad.any():
            kind = "NaN" if torch.isnan(scale).any() else "infinite"
            what = f"{int(bad.sum())} of {scale.numel()} values are {kind}, the first at {_place(bad)}"
            yield Finding("scales.not-finite", name, what, "every answer becomes NaN", EXPORT_AGAIN)
        negative = torch.signbit(scale) & (scale != 0) & torch.isfinite(scale)
        if negative.any():
            what = f"{int(negative.sum())} of {scale.numel()} values are negative, the first at {_place(negative)}"
            yield Finding(
                "scales.negative", name, what, "weights change sign: no quantizer writes such a scale", EXPORT_AGAIN
            )


def check_zero(subject: Subject) -> Iterator[Finding]:
    """A scale of zero stands only for a block that is zero; a global or input scale is never zero."""
    for name, stored in _scales(subject.folder):
        if _all_positive(stored):
            continue
        scale = stored.float()
        zero = scale == 0
        if not zero.any():
            continue
        module, _, suffix = name.rpartition(".")
        if scale.numel() == 1 or suffix not in ("weight_scale", "scales", "weight_scale_inv"):
            what = "it is zero"
            yield Finding("scales.zero", name, what, "division by zero: infinity, then pad tokens", EXPORT_AGAIN)
            continue
        blocks = _nonzero_blocks(subject, module, suffix, scale)
        if blocks is not None and bool((zero & blocks).any()):
            place = _place(zero & blocks)
            what = f"{int((zero & blocks).sum())} values are zero over blocks that are not, the first at {place}"
            yield Finding("scales.zero", name, what, "those weights are lost", EXPORT_AGAIN)


def check_shared(subject: Subject) -> Iterator[Finding]:
    """Linears that engines fuse have one global scale (and one input scale): an engine keeps one of them."""
    if subject.blueprint is None:
        return
    linears = subject.blueprint.linears
    for linear in linears.values():
        if not linear.fused or linear.name != linear.fused[0]:
            continue
        group = [name for name in linear.fused if subject.is_quantized(name)]
        if 0 < len(group) < len(linear.fused):
            plain = next(name for name in linear.fused if name not in group)
            what = f"engines load it in one matrix with {group[0]}, which is quantized, and this is not"
            yield Finding("scales.fused", plain, what, "loading stops", "quantize both, or keep both")
        formats = {name: scheme.format for name in group if (scheme := subject.declared.scheme_of(name)) is not None}
        if len(set(formats.values())) > 1:
            other = next(name for name in formats if formats[name] != formats[group[0]])
            what = (
                f"engines load it in one matrix with {group[0]}, and one is {formats[group[0]]}, this {formats[other]}"
            )
            yield Finding("scales.fused", other, what, "loading stops", "give both one scheme")
        yield from _shared(subject.folder, linear, group)


def _shared(folder: Folder, linear: Linear, group: Sequence[str]) -> Iterator[Finding]:
    suffixes = ("weight_global_scale", "weight_scale_2", "input_global_scale", "input_scale")
    for suffix in suffixes:
        names = [f"{name}.{suffix}" for name in group if folder.readable(f"{name}.{suffix}")]
        values = [float(folder.read(name).float().flatten()[0]) for name in names if folder.tensors[name].nbytes]
        if len(values) < 2 or len(set(values)) == 1 or min(values) <= 0:
            continue
        ratio = max(values) / min(values)
        per_tensor = suffix == "input_scale" or suffix == "input_global_scale"
        what = f"engines keep one {suffix} for {_short(names)}, and theirs differ by a factor of {ratio:.4g}"
        yield Finding(
            "scales.not-shared",
            names[1],
            what,
            "vLLM takes the larger: inputs of the other lose range"
            if per_tensor
            else "the weights of all but one are off by that factor: readable but damaged text",
            "export again with one scale for the group",
        )


def check_outliers(subject: Subject) -> Iterator[Finding]:
    """A global or input scale that is thousands of times its siblings', or such scales of a matrix's rows or groups."""
    if subject.blueprint is None:
        return
    siblings: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
    for linear in subject.blueprint.architecture.linears:
        for suffix in subject.modules.get(linear.name, set()) & SCALES:
            name = f"{linear.name}.{suffix}"
            if subject.folder.readable(name) and _stands_alone(subject.folder.tensors[name]):
                value = float(subject.folder.read(name).float().median())
                if 0 < value < float("inf"):
                    siblings.setdefault((linear.role, linear.part, suffix), []).append((name, value))
    for found in siblings.values():
        if len(found) < _COUNT:
            continue
        middle = sorted(value for _, value in found)[len(found) // 2]
        for name, value in found:
            if subject.folder.tensors[name].nbytes > 4 and value < 1:
                continue  # of zeros, or of a model of which most are zeros
            if not 1 / _OUTLIER < value / middle < _OUTLIER and not _of_zeros(subject, name.rpartition(".")[0]):
                what = f"it is {value:.4g}, {value / middle:.3g} times the median of its {len(found)} siblings"
                yield Finding("scales.outlier", name, what, "weights or inputs are off by that factor", EXPORT_AGAIN)


def _stands_alone(scale: StoredTensor) -> bool:
    """Whether it is no factor of another scale, as NVFP4's and MXFP4's of eight bits are."""
    return scale.nbytes > 0 and scale.dtype in ("F32", "F16", "BF16")


def _of_zeros(subject: Subject, module: str) -> bool:
    """Whether a module, or one beside it whose outputs it may read, holds nothing but zeros: nothing follows from a
    scale over zeros."""
    beside = f"{module.rpartition('.')[0]}."
    return any(_is_zero(subject.folder, name) for name in subject.modules if name.startswith(beside))


def _is_zero(folder: Folder, module: str) -> bool:
    """Whether every code of a weight in eight or four bits of floating point is zero, of either sign."""
    part = next((p for p in ("weight_packed", "weight") if folder.readable(f"{module}.{p}")), None)
    if part is None:
        return False
    codes = folder.read(f"{module}.{part}")
    return not bool((codes & 0x77).any() if codes.dtype == torch.uint8 else codes.float().any())


def check_dimensions(subject: Subject) -> Iterator[Finding]:
    """Groups and blocks divide the rows that they cut."""
    for linear, scheme in subject.quantized():
        group = _group(scheme)
        if group and linear.in_features % group:
            what = f"groups of {group} do not divide its {linear.in_features} input channels"
            yield Finding(
                "scales.group", linear.name, what, "loading stops, or the last group has no scale", "keep it in BF16"
            )


def _group(scheme: Scheme) -> int | None:
    from verification.reading.stored_parts import group_of

    return group_of(scheme)


def check_nvfp4_range(subject: Subject) -> Iterator[Finding]:
    """The scales of an NVFP4 group reach up to where its global scale puts their maximum, E4M3's 448.

    The global scale is 448 * 6 / max |w| over all Linears that share it, so the largest block scale of them rounds to
    448. Observers that shrink ranges stay within a factor of two; a stale or damaged global scale does not.
    """
    if subject.blueprint is None:
        return
    done: set[str] = set()
    for linear, scheme in subject.quantized():
        first = linear.fused[0] if linear.fused else linear.name
        if not is_nvfp4(scheme) or first in done:
            continue
        done.add(first)
        group = linear.fused or (linear.name,)
        names = [f"{name}.weight_scale" for name in group if subject.folder.readable(f"{name}.weight_scale")]
        largest = max((_largest(subject.folder.read(name)) for name in names), default=448.0)
        if 0 < largest < 448 / 4 and not all(_is_zero(subject.folder, name) for name in group):
            what = f"the largest block scale of {_short(names)} is {largest:g}, where the format scales it to 448"
            yield Finding(
                "scales.range",
                names[0],
                what,
                "fine weights vanish below the smallest scale",
                EXPORT_AGAIN,
                "warning",
            )


def _scales(folder: Folder) -> Iterator[tuple[str, torch.Tensor]]:
    for name, stored in folder.tensors.items():
        suffix = name.rpartition(".")[2]
        if (suffix in SCALES or suffix in CACHE_SCALES) and folder.readable(name) and stored.nbytes:
            tensor = folder.read(name)
            if tensor.is_floating_point():
                yield name, tensor


def _all_positive(scale: torch.Tensor) -> bool:
    """And finite: as nearly all are, which one look tells."""
    low, high = _extremes(scale)
    return low > 0 and high < float("inf")


def _extremes(scale: torch.Tensor) -> tuple[float, float]:
    """The smallest and the largest, NaN where one is. Those of eight bits are in the order of their bytes, where none
    is below zero: a hundredth of the time that making numbers of all takes."""
    if scale.dtype == torch.float8_e4m3fn:
        low, high = torch.aminmax(scale.view(torch.uint8))
        if int(high) < _E4M3_NAN:
            scale = torch.stack((low, high)).view(scale.dtype)
    low, high = torch.aminmax(scale.float())
    return float(low), float(high)


def _nonzero_blocks(subject: Subject, module: str, suffix: str, scale: torch.Tensor) -> torch.Tensor | None:
    """bool of scale's shape: which blocks hold any non-zero quantized weight. None where blocks can't be told."""
    folder = subject.folder
    if suffix == "weight_scale" and folder.readable(f"{module}.weight_packed"):
        packed = folder.read(f"{module}.weight_packed")
        if packed.dtype == torch.uint8:
            nonzero = (packed & 0x77) != 0  # E2M1 without its sign
            return _any_per_block(nonzero, scale)
        return torch.ones_like(scale, dtype=torch.bool)
    if suffix == "scales":
        return torch.ones_like(scale, dtype=torch.bool)
    if folder.readable(f"{module}.weight"):
        weight = folder.read(f"{module}.weight")
        if weight.dtype == torch.uint8:
            return _any_per_block((weight & 0x77) != 0, scale)
        return _any_per_block(weight.float() != 0, scale)
    return None


def _largest(scale: torch.Tensor) -> float:
    """Of those that are numbers."""
    _, high = _extremes(scale)
    return high if high == high else float(scale.float().nan_to_num().max())


def _any_per_block(nonzero: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
    if nonzero.dim() != 2 or scale.dim() not in (1, 2) or not scale.numel():
        return None
    rows, columns = scale.shape[0], scale.shape[1] if scale.dim() == 2 else 1
    height, width = -(-nonzero.shape[0] // rows), -(-nonzero.shape[1] // columns)
    padded = torch.zeros(rows * height, columns * width, dtype=torch.bool)
    padded[: nonzero.shape[0], : nonzero.shape[1]] = nonzero
    blocks = padded.view(rows, height, columns, width).any(3).any(1)
    return blocks.view(scale.shape)


def _place(mask: torch.Tensor) -> str:
    return str(torch.nonzero(mask)[0].tolist()) if mask.dim() else "[]"


def _short(names: Sequence[str]) -> str:
    return " and ".join(names)
