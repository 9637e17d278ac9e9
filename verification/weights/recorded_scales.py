"""What an export of this project decided before it rounded, as it recorded it: scales that it moved between weights, so
that what must have been rounded is known and nothing has to be fitted, and fixed scales of inputs.

`calibration/decisions/<variant>` beside the artifact's folder holds them layer by layer, and the artifact's manifest a
digest of them (exporters/export/decisions.py). By name, "*" for every expert of the layer in the first two:

    <module>.in    float32 [in], or [experts, in]: what the input channels were multiplied by
    <module>.out   float32 [out], or [experts, out]: what the outputs (a norm's channels, rows, a bias) were divided by
    <module>.input_scale, <module>.input_global_scale    float32 [1]
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sixfold.artifact.workspace import CALIBRATION, digest_of, read_json, sha256_of
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.subject import Subject

_LAYER = re.compile(r"layers\.(\d+)\.")
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


_INPUTS = ("input_global_scale", "input_scale")


@dataclass(frozen=True)
class Record:
    """folder: of the layers' files."""

    folder: Path

    def of(self, module: str, what: str) -> torch.Tensor | None:
        layer, expert = _LAYER.search(module), _EXPERT.search(module)
        if layer is None:
            return None
        held = _layer(self.folder / f"layer-{int(layer[1]):05d}.safetensors")
        found = held.get(f"{module}.{what}", held.get(f"{_EXPERT.sub('*', module)}.{what}"))
        return found[int(expert[0])] if found is not None and found.dim() == 2 and expert is not None else found


@dataclass(frozen=True)
class RecordedScales:
    """one_plus: names of norms that multiply by 1 + weight."""

    record: Record
    one_plus: frozenset[str]

    def touches(self, name: str) -> bool:
        module = name.rpartition(".")[0]
        return any(self.record.of(module, side) is not None for side in ("in", "out"))

    def moved(self, name: str, weight: torch.Tensor, start: int = 0) -> torch.Tensor | None:
        """What was stored or rounded in the place of rows [start, ...) of a source's tensor, float32; None where that
        is the tensor itself."""
        module = name.rpartition(".")[0]
        columns = self.record.of(module, "in") if weight.dim() == 2 else None
        rows = self.record.of(module, "out")
        if columns is None and rows is None:
            return None
        moved = weight if columns is None else weight * columns.to(weight.device)
        if rows is None:
            return moved
        rows = rows[start : start + len(weight)].to(weight.device)
        if name in self.one_plus:
            return (1 + moved) / rows - 1
        return moved / (rows.unsqueeze(1) if weight.dim() == 2 else rows)


@lru_cache(maxsize=2)
def _layer(path: Path) -> Mapping[str, torch.Tensor]:
    return load_file(path) if path.is_file() else {}


def record_beside(path: Path, manifest: Mapping[str, Any]) -> Record | None:
    """None where the artifact's manifest names no decisions, or they are not beside it, or have changed. path: of the
    artifact."""
    place = (path.absolute() if path.is_dir() else path.absolute().parent).parent / CALIBRATION / "decisions"
    folder = place / str(manifest.get("variant"))
    files = (read_json(folder / "decisions.json") or {}).get("files")
    if not isinstance(files, Mapping) or digest_of(dict(files)) != manifest.get("decisions"):
        return None
    try:
        changed = any(sha256_of(folder / name) != digest for name, digest in files.items())
    except OSError:
        return None
    return None if changed else Record(folder)


def check_recorded_inputs(record: Record, subject: Subject) -> Iterator[Finding]:
    """Fixed scales of inputs are those that were decided: nothing in the weights tells of them."""
    for module, suffixes in subject.modules.items():
        for suffix in suffixes & set(_INPUTS):
            name = f"{module}.{suffix}"
            if not subject.folder.readable(name):
                continue
            held, decided = subject.folder.read(name).float().flatten(), _decided(record, module, suffix)
            if decided is not None and not torch.equal(held, decided.flatten()):
                what = f"it is {float(held[0]):.6g}, and the export decided on {float(decided.flatten()[0]):.6g}"
                consequence = "inputs are cut off at its range, or vanish below its steps"
                yield Finding("inputs.recorded", name, what, consequence, EXPORT_AGAIN)


def _decided(record: Record, module: str, suffix: str) -> torch.Tensor | None:
    """ModelOpt's name of NVFP4's scale holds the reciprocal of what is decided."""
    own = record.of(module, suffix)
    if own is not None or suffix != "input_scale":
        return own
    other = record.of(module, "input_global_scale")
    return None if other is None else other.reciprocal()
