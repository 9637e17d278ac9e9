"""plan.json: which experts are kept, and why. Readable, editable, and applicable to other checkpoints.

schema       1
model        name of the checkpoint it was made for
source       its {"fingerprint", "revision"}; applied to another checkpoint, a note says so
criterion    a name of pruning.choosing.criteria
ratio        share that was requested, null if a number was
budget       "layer": the same number in each layer; "global": over all layers
seed         of "random"
statistics   {"digest", "profile"} of the calibration that the saliency comes from; null for "random"
healing      only where kept experts were refitted (pruning.healing): {"profile" of the calibration whose texts they
             were refitted to, "ids_sha256" of their token ids}
layers       one entry for each layer with experts:
    layer      number of the decoder layer
    experts    how many the original has
    kept       the original's numbers of the experts that stay: the i-th becomes expert i. This is all that is applied
    protected  experts kept whatever their saliency
    saliency   of all the original's experts, in their order
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pruning.anatomy import Anatomy
from pruning.choosing.choose import check_free_counts
from pruning.choosing.counts import checked
from sixfold.artifact.workspace import digest_of
from sixfold.errors import UsageError

FILE = "plan.json"
SCHEMA = 1

_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "source": (dict,),
    "criterion": (str,),
    "ratio": (float, int, type(None)),
    "budget": (str,),
    "seed": (int,),
    "statistics": (dict, type(None)),
    "healing": (dict, type(None)),
}


@dataclass(frozen=True)
class LayerPlan:
    """One layer's entry; see the module's docstring."""

    layer: int
    experts: int
    kept: tuple[int, ...]
    protected: tuple[int, ...]
    saliency: tuple[float, ...]


@dataclass(frozen=True)
class PruningPlan:
    """A plan.json; see the module's docstring."""

    model: str
    source: Mapping[str, str]
    criterion: str
    ratio: float | None
    budget: str
    seed: int
    statistics: Mapping[str, Any] | None
    layers: tuple[LayerPlan, ...]
    healing: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """sha256 of what decides the pruned weights: which experts are kept, in their order, and what they were
        refitted to."""
        kept = [(entry.layer, list(entry.kept)) for entry in self.layers]
        return digest_of(kept if self.healing is None else {"kept": kept, "healing": self.healing})

    @property
    def kept(self) -> dict[int, tuple[int, ...]]:
        return {entry.layer: entry.kept for entry in self.layers}

    @property
    def counts(self) -> dict[int, int]:
        return {entry.layer: len(entry.kept) for entry in self.layers}


def plan_text(plan: PruningPlan) -> str:
    """JSON with each list of an entry on a line of its own."""
    head = {k: v for k, v in {"schema": SCHEMA, **asdict(plan)}.items() if k != "layers"}
    if plan.healing is None:
        del head["healing"]
    lines = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
    entries = []
    for entry in plan.layers:
        body = ",\n".join(f'      "{key}": {json.dumps(value)}' for key, value in asdict(entry).items())
        entries.append(f"    {{\n{body}\n    }}")
    return lines + ',\n  "layers": [\n' + ",\n".join(entries) + "\n  ]\n}\n"


def read_plan(path: Path) -> PruningPlan:
    """Raises UsageError if the file is not a plan; `check_plan` checks whether it fits a checkpoint."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read the plan {path}: {error.strerror}", "give the plan.json of a pruned folder"
        ) from None
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"the plan {path} is not valid JSON{line}", "correct it") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not a pruning plan of schema {SCHEMA}", "give the plan.json of a pruned folder")
    found.setdefault("healing", None)
    _check_keys(str(path), found, {"schema", *_names(PruningPlan)})
    for key, kinds in _KINDS.items():
        if not isinstance(found[key], kinds):
            raise UsageError(
                f"the plan {path} has a {key} of {found[key]!r}", "compare it with a plan of sixfold's own"
            )
    if not isinstance(found["layers"], list) or not found["layers"]:
        raise UsageError(f"the plan {path} has no layers", "give one entry for each layer with experts")
    layers = tuple(
        _layer(f"{path}, entry {number} of layers", entry) for number, entry in enumerate(found["layers"], 1)
    )
    return PruningPlan(**{k: v for k, v in found.items() if k not in ("schema", "layers")}, layers=layers)


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _check_keys(where: str, found: Mapping[str, Any], wanted: set[str]) -> None:
    wrong = [f"has no {key}" for key in sorted(wanted - set(found))] + [
        f"has an unknown {key}" for key in sorted(set(found) - wanted)
    ]
    if wrong:
        raise UsageError(f"the plan {where} {' and '.join(wrong)}", f"its keys are {', '.join(sorted(wanted))}")


def _layer(where: str, entry: Any) -> LayerPlan:
    if not isinstance(entry, dict):
        raise UsageError(f"the plan {where} is not an object", "compare it with a plan that sixfold wrote")
    _check_keys(where, entry, _names(LayerPlan))
    for key in ("layer", "experts"):
        if type(entry[key]) is not int:
            raise UsageError(f"the plan {where} has a {key} that is not an integer", "correct it")
    for key, kinds in (("kept", (int,)), ("protected", (int,)), ("saliency", (int, float))):
        if not isinstance(entry[key], list) or any(type(value) not in kinds for value in entry[key]):
            raise UsageError(f"the plan {where} has a {key} that is not a list of numbers", "correct it")
    lists = {key: tuple(entry[key]) for key in ("kept", "protected", "saliency")}
    return LayerPlan(layer=entry["layer"], experts=entry["experts"], **lists)


def check_plan(plan: PruningPlan, anatomy: Anatomy, where: str) -> None:
    """Raises UsageError where the plan does not fit the checkpoint. where: the plan's path."""
    numbers = [entry.layer for entry in plan.layers]
    for repeated in sorted({n for n in numbers if numbers.count(n) > 1}):
        raise UsageError(f"{where} has layer {repeated} twice", "leave one of the entries out")
    unknown = sorted(set(numbers) - set(anatomy.layers))
    missing = sorted(set(anatomy.layers) - set(numbers))
    if unknown:
        raise UsageError(
            f"{where} has layer {unknown[0]}, which has no experts here",
            f"the layers with experts are {_ranges(anatomy.layers)}",
        )
    if missing:
        raise UsageError(f"{where} lacks layer {missing[0]}", f"the layers with experts are {_ranges(anatomy.layers)}")
    for entry in plan.layers:
        _check_layer(entry, anatomy, f"layer {entry.layer} in {where}")
    counts = plan.counts
    if len(set(counts.values())) > 1:
        check_free_counts(anatomy)
    if all(entry.kept == tuple(range(entry.experts)) for entry in plan.layers):
        raise UsageError(f"{where} keeps every expert where it is", "there is nothing to prune")


def _check_layer(entry: LayerPlan, anatomy: Anatomy, where: str) -> None:
    if entry.experts != anatomy.experts:
        raise UsageError(
            f"{where} is of {entry.experts} experts, and the checkpoint has {anatomy.experts}",
            "give the checkpoint that the plan was made for, or one with the same experts",
        )
    outside = [e for e in entry.kept if not 0 <= e < entry.experts]
    if outside:
        raise UsageError(f"{where} keeps expert {outside[0]}", f"experts are numbered 0 to {entry.experts - 1}")
    twice = sorted({e for e in entry.kept if entry.kept.count(e) > 1})
    if twice:
        raise UsageError(f"{where} keeps expert {twice[0]} twice", "name each expert once")
    kept = len(entry.kept)
    if kept != entry.experts:
        checked(anatomy, kept)
    each = kept // anatomy.groups
    for group in range(anatomy.groups):
        part = entry.kept[group * each : (group + 1) * each]
        if any(e // anatomy.group_size != group for e in part):
            raise UsageError(
                f"{where} does not keep {each} experts of each of the router's {anatomy.groups} groups, group by group",
                f"keep as many of experts 0 to {anatomy.group_size - 1} as of every further {anatomy.group_size}",
            )


def _ranges(numbers: tuple[int, ...]) -> str:
    """(1, 2, 3, 5) -> "1 to 3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
