"""Run an exporter from beginning to end in a test, and read back what it wrote."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from calibration.calibrate import sites_of
from exporters.export.planning import plan_of
from exporters.export.run import export
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.workspace import Workspace
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics, layer_file, moe_of

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"


@dataclass(frozen=True)
class Artifact:
    folder: Path
    notes: tuple[str, ...]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {k: v for path in sorted(self.folder.glob("*.safetensors")) for k, v in load_file(path).items()}


@contextmanager
def silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def recipe(exporter: str, scheme: str, **others: Any) -> Recipe:
    return Recipe(name=exporter, suffix=exporter, title=exporter, exporter=exporter, scheme=scheme, **others)


def planned(source: Source, made: Recipe) -> ExportPlan:
    plan = plan_of(source, made, None)
    assert plan is not None
    return plan


def run(source: Source, made: Recipe, root: Path, statistics: Statistics | None = None) -> Artifact:
    workspace = Workspace(root, source.checkpoint.name)
    done = export(source, made, workspace, statistics, threads=2, progress=silent)
    return Artifact(done.folder, done.notes)


def calibration_of(folder: Path, sites: dict[str, dict[str, Any]], largest: dict[str, torch.Tensor]) -> Statistics:
    """A finished calibration that saw only `largest` (max |x| per channel, of every site; 0: no token came there)."""
    folder.mkdir()
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for site, values in largest.items():
        count = (values.amax(-1) > 0).long()
        by_layer.setdefault(layer_file(sites[site]["layer"]), {}).update(
            {f"{site}/abs_max": values.contiguous(), f"{site}/count": count}
        )
    for name, tensors in by_layer.items():
        save_file(tensors, folder / name)
    moe: dict[str, dict[str, Any]] = {}
    for site, values in largest.items():
        if values.dim() == 2:
            entry = {"layer": sites[site]["layer"], "experts": len(values), "starved": []}
            unseen = set((values.amax(-1) == 0).nonzero()[:, 0].tolist())
            known = moe.setdefault(moe_of(site), entry)
            known["starved"] = sorted(unseen.union(known["starved"]))
    profile = {"starved": "average", "min_tokens": 32}
    files = {name: {"sha256": name} for name in by_layer}
    return Statistics(folder, {"sites": sites, "moe": moe, "profile": profile, "files": files})


def largest_of(source: Source, value: float) -> dict[str, torch.Tensor]:
    """`value` for every channel of every site, as `calibration_of` takes it."""
    channels = {linear.site: linear.in_features for linear in source.architecture.linears}
    return {
        site: torch.full((*((entry["experts"],) if entry["experts"] else ()), channels[site]), value)
        for site, entry in sites_of(source.architecture.linears).items()
    }
