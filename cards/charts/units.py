"""One unit for all sizes of a chart, decimal as everywhere in this project, and written in full on the axis."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    factor: int
    name: str
    said: str


_UNITS = (
    Unit(10**3, "kB", "kB (1,000 bytes)"),
    Unit(10**6, "MB", "MB (10⁶ bytes)"),
    Unit(10**9, "GB", "GB (10⁹ bytes)"),
)


def unit_for(largest: int) -> Unit:
    """The largest unit of which there is at least one."""
    return next((unit for unit in reversed(_UNITS) if largest >= unit.factor), _UNITS[0])
