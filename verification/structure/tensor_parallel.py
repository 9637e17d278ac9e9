"""Which Linears cannot be split for tensor parallelism: only reported, since a single GPU runs the artifact."""

from collections.abc import Iterator

from sixfold.model.architecture import Linear
from verification.reading.declared import Scheme
from verification.reading.stored_parts import group_of
from verification.reading.subject import Subject

WAYS = (2, 4, 8)
_BY_COLUMNS = ("o_proj", "down_proj", "w2", "down", "out_proj", "dense")
"""Linears that engines cut along their input channels; all others along their outputs."""


def misfits(subject: Subject) -> dict[str, list[str]]:
    """By the number of GPUs: Linears whose groups or blocks would be cut through, `*` for numbers in their names."""
    found: dict[str, list[str]] = {}
    for ways in WAYS:
        names: dict[str, None] = {}
        for linear, scheme in subject.quantized():
            if not _divides(linear, scheme, ways):
                names[".".join("*" if part.isdigit() else part for part in linear.name.split("."))] = None
        found[str(ways)] = list(names)
    return found


def _divides(linear: Linear, scheme: Scheme, ways: int) -> bool:
    by_columns = linear.part in _BY_COLUMNS
    size = linear.in_features if by_columns else linear.out_features
    units = list(_units(scheme, by_columns))
    return size % ways == 0 and all((size // ways) % unit == 0 for unit in units)


def _units(scheme: Scheme, by_columns: bool) -> Iterator[int]:
    block = scheme.weights.get("block_structure") or scheme.weights.get("weight_block_size")
    if isinstance(block, (list, tuple)) and len(block) == 2:
        yield int(block[1 if by_columns else 0])
    group = group_of(scheme)
    if group and by_columns:
        yield group
    if scheme.method == "awq" and not by_columns:
        yield 8
