"""Checkpoints, plans and pruned folders for a test."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pruning.anatomy import Anatomy, dissect
from pruning.choosing.plan_file import LayerPlan, PruningPlan
from pruning.mtp import Mtp
from pruning.run import prune
from sixfold.model.source import Source, open_source

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"


def plan_of(source: Source, anatomy: Anatomy, kept: Mapping[int, Sequence[int]]) -> PruningPlan:
    entries = tuple(LayerPlan(layer, anatomy.experts, tuple(kept[layer]), (), ()) for layer in anatomy.layers)
    origin = {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision}
    return PruningPlan(source.checkpoint.name, origin, "by hand", None, "layer", 0, None, entries)


def some_experts(anatomy: Anatomy) -> dict[int, tuple[int, ...]]:
    """Of eight experts five, others in odd layers than in even ones; of two groups of four, two each."""
    if anatomy.groups == 2:
        return {layer: (0, 3, 5, 6) if layer % 2 else (1, 2, 4, 6) for layer in anatomy.layers}
    return {layer: (0, 3, 5, 6, 7) if layer % 2 else (1, 2, 4, 6, 7) for layer in anatomy.layers}


def pruned(folder: Path, out: Path, kept: Mapping[int, Sequence[int]] | None = None, mtp: Mtp = "drop") -> PruningPlan:
    source = open_source(folder)
    anatomy = dissect(source)
    plan = plan_of(source, anatomy, kept or some_experts(anatomy))
    prune(source, anatomy, plan, mtp, out, threads=2, progress=silent)
    return plan


@contextmanager
def silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda amount: None
