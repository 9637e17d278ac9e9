"""The benchmarks of a card's artifacts, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cards.facts.traced import Fact, Shown
from cards.facts.variant import fact_of
from sixfold.artifact.evaluation_record import FILE, SPEED, stored_evaluation


class Evaluated(Protocol):
    """What the section needs to know of a model: a variant is one."""

    @property
    def label(self) -> Shown: ...

    @property
    def evaluation(self) -> Fact: ...

    @property
    def speed(self) -> Fact: ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is no variant."""

    label: Shown
    evaluation: Fact
    speed: Fact


Tested = tuple[Evaluated, Fact]


def checkpoint_in(folder: Path, label: Shown) -> Checkpoint:
    """With what was measured of its files as they are."""
    evaluation, speed = (
        fact_of(stored_evaluation(folder, "manifest.json", file), folder / file, folder) for file in (FILE, SPEED)
    )
    return Checkpoint(label, evaluation, speed)


def benchmarks_of(mine: Sequence[Evaluated]) -> list[tuple[Fact, list[Tested]]]:
    """The name of each benchmark, with the artifacts that it was run on and what came of it there."""
    found: dict[str, tuple[Fact, list[Tested]]] = {}
    for variant in mine:
        for test in variant.evaluation.benchmarks:
            found.setdefault(test.name.value, (test.name, []))[1].append((variant, test))
    return list(found.values())
