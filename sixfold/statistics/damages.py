"""damages.json beside the statistics: what rounding each part of the model to each type costs, foretold from moments.

A part is a Linear, or the experts' Linears of one kind in a layer ("...experts.*.w1"), or the embeddings. Made once per
model and calibration; every format and every budget reads the same file, and adds the types that it lacks.

schema   1
made_of  source (fingerprint) and statistics (digest): a change in either makes all of it stale
parts    {part: {alignment, price, damages: {type: [nearest, compensated]}}}, as `Part` and `Damage` have them
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sixfold.artifact.workspace import read_json, write_json
from sixfold.model.source import Source
from sixfold.statistics.statistics import Statistics

FILE = "damages.json"
SCHEMA = 1


@dataclass(frozen=True)
class Damage:
    """Mean squared error of a part's outputs over their mean square, with every weight rounded to nearest, and with
    errors compensated where the type allows it."""

    nearest: float
    compensated: float


@dataclass(frozen=True)
class Part:
    """alignment: by how much the energy of its outputs exceeds what inputs without correlations would give. price: KL
    divergence of the model in nats per token for each unit of damage; None where it was not measured, 0 where it could
    not be. damages: by type."""

    alignment: float
    price: float | None
    damages: Mapping[str, Damage]


@dataclass(frozen=True)
class Damages:
    """made_of: what they depend on."""

    made_of: Mapping[str, Any]
    parts: Mapping[str, Part] = field(default_factory=dict)

    def lacking(self, part: str, types: Iterable[str]) -> list[str]:
        known = self.parts[part].damages if part in self.parts else {}
        return [kind for kind in types if kind not in known]

    def plus(self, part: str, found: Part) -> "Damages":
        known = self.parts.get(part)
        if known is not None:
            found = Part(found.alignment, known.price, {**known.damages, **found.damages})
        return Damages(self.made_of, {**self.parts, part: found})


def damages_of(source: Source, statistics: Statistics) -> Damages:
    """Those that lie beside the statistics; without any part where there are none, or they are of something else."""
    made_of = {"source": source.checkpoint.fingerprint, "statistics": statistics.digest}
    found = read_json(statistics.folder / FILE)
    if found is None or found.get("schema") != SCHEMA or found.get("made_of") != made_of:
        return Damages(made_of)
    return Damages(made_of, {name: _part(values) for name, values in found["parts"].items()})


def _part(values: Mapping[str, Any]) -> Part:
    damages = {kind: Damage(*each) for kind, each in values["damages"].items()}
    return Part(values["alignment"], values["price"], damages)


def write_damages(folder: Path, damages: Damages) -> None:
    parts = {
        name: {
            "alignment": _short(part.alignment),
            "price": None if part.price is None else _short(part.price),
            "damages": {k: [_short(d.nearest), _short(d.compensated)] for k, d in sorted(part.damages.items())},
        }
        for name, part in sorted(damages.parts.items())
    }
    write_json(folder / FILE, {"schema": SCHEMA, "made_of": dict(damages.made_of), "parts": parts})


def _short(value: float) -> float:
    """Six digits: the last ones of float sums differ from machine to machine."""
    return float(f"{value:.6g}")
