"""The two kinds of exporter. A third party adds a format by writing one module with one of these and one recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel

from exporters.mix.choose import Options
from exporters.rounding.inputs import Inputs
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics

Decisions = Mapping[str, torch.Tensor]
"""What `decide` found for one decoder layer, by name; saved as one safetensors file."""


Tokens = Callable[[], torch.Tensor]
"""The token ids of a recipe's calibration profile, int64 [samples, length]; drawn when called."""


@dataclass(frozen=True)
class Decided:
    """The decisions of one layer, and a sentence for the manifest about anything unusual."""

    tensors: Decisions
    notes: tuple[str, ...] = ()


class Exporter(Protocol):
    """A native target: three functions, no state. sixfold/artifact/streaming/ does the reading and writing.

    Options: the pydantic model that a recipe's `options:` must satisfy.
    provenance: fields of the checkpoint's provenance that weight files state. May be missing where there are none.
    libraries: names of the distributions, beyond `sixfold.artifact.manifest.EVERY_ARTIFACT`, whose code decides bytes:
    another version of one makes an artifact stale. May be missing where there are none. Not named are libraries that
    only carry out what is defined to the bit, such as numpy's integers.
    importance_suffices: optional; whether statistics may be what an importance matrix holds, `count` and `sum_sq`, with
    the recipe's `calibration.imatrix` set. False where an exporter does not say.
    searched: optional, for a `decide` that reads weights: (source, recipe, layer) -> the slices of the source that it
    reads, which are then in memory once for it and for all that is made of them in the same walk.
    More are optional, and belong together: see Compensating and Mixing.
    """

    Options: type[BaseModel]
    provenance: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def needs_statistics(self, recipe: Recipe) -> bool:
        """Whether `plan` or `decide` reads calibration statistics."""
        ...

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        """Every output tensor, unit, file and text, from headers alone.

        `statistics` is None in a dry run before calibration; the bytes planned are the same.
        """
        ...

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        """Judgment or search over more than one tensor of decoder layer `layer`. May read weights.

        Called once for every layer that a unit of the plan names, before its units are encoded. Tensors of the source
        are shared with others, and not to be changed.
        """
        ...

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        """Element-wise and pure: the same inputs give the same bytes on any machine and number of threads.

        Returns one CPU tensor per `unit.outputs`, in order, whose bytes are exactly what is written.
        """
        ...


class Compensating(Exporter, Protocol):
    """A native target that can compensate errors (`rounding: compensated`; see exporters/rounding)."""

    def compensates(self, recipe: Recipe) -> bool:
        """Whether it does so by this recipe; `needs_statistics` is true then. Where not, the recipe counts as one that
        rounds to nearest."""
        ...

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        """In place of `encode`, and as `encode` where nothing is known of what a unit's Linears read. Units are of one
        encoding, their inputs of one shape and dtype: they are rounded side by side. Float sums may depend on the
        machine, and on what stands beside; on one machine the same units give the same bytes, with any number of
        threads."""
        ...


class Mixing(Exporter, Protocol):
    """A native target that chooses types to a recipe's budget (see exporters/mix)."""

    def prepare(
        self, source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
    ) -> None:
        """Makes what `plan` chooses by, beside the statistics; does nothing where that is there. May read weights and
        run the model. Before it, `plan` plans types that are no particular model's, to the same budget."""
        ...

    def offered(self, source: Source, recipe: Recipe, statistics: Statistics) -> Options | None:
        """What may be chosen, with its damage; None where `prepare` has not been called."""
        ...


class ExternalExporter(Protocol):
    """An external tool that does the entire quantization: no exact plan, no memory bound; the same manifest and card.

    libraries: as in `Exporter`; the tool itself, at least.
    """

    Options: type[BaseModel]
    libraries: tuple[str, ...] = ()

    def run(self, source: Source, recipe: Recipe, tokens: Tokens | None, folder: Path) -> Sequence[str]:
        """Writes the artifact into the empty `folder`; returns notes for the manifest and the card.

        tokens: None where there are no texts; raises SixfoldError then if the recipe needs them.
        """
        ...
