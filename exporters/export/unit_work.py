"""What is done for a variant's layers and units, here or on another machine: no files are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch

from exporters import cache_scales
from exporters.export.planning import compensates
from exporters.protocol import Compensating, Decided, Decisions, Exporter
from exporters.registry import exporter_named
from exporters.rounding.device import device, turn
from exporters.rounding.inputs import Inputs
from sixfold.artifact.plan import Unit
from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics, open_statistics

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Variant:
    """What decides the bytes of its units. threads: that searching one layer takes."""

    source: Source
    recipe: Recipe
    statistics: Statistics | None
    threads: int

    @property
    def exporter(self) -> Exporter:
        return cast(Exporter, exporter_named(self.recipe.exporter))

    @property
    def known(self) -> Inputs | None:
        """Where errors are compensated."""
        if self.statistics is None or not compensates(self.recipe):
            return None
        return _inputs(self.statistics.folder, self.statistics.digest, device())


def decided(variant: Variant, layer: int, checkpoint: Checkpoint | None) -> Decided:
    """checkpoint: that is read by, where it is not the source's own."""
    source = variant.source if checkpoint is None else replace(variant.source, checkpoint=checkpoint)
    # A layer is searched where many units are encoded.
    with torch_threads(variant.threads if hasattr(variant.exporter, "searched") else 1):
        return variant.exporter.decide(source, variant.recipe, variant.statistics, layer)


def encoded(
    variant: Variant, units: Sequence[Unit], inputs: Sequence[Tensors] | None, decisions: Mapping[int | None, Decisions]
) -> Sequence[Tensors]:
    """The outputs of units that are encoded side by side. decisions: by layer. inputs: of each; None to read them, and
    to give outputs as their bytes, U8: tensors of some dtypes cannot be pickled."""
    if inputs is None:
        read = variant.source.checkpoint.read
        read_inputs = [[read(part) for part in unit.inputs] for unit in units]
        made = encoded(variant, units, read_inputs, decisions)
        return [[out.contiguous().reshape(-1).view(torch.uint8) for out in outputs] for outputs in made]
    known, exporter, recipe = variant.known, variant.exporter, variant.recipe
    of_each = [decisions[unit.layer] for unit in units]
    if units[0].encoding == cache_scales.ENCODING:  # whatever the exporter
        return [cache_scales.encoded_scales(*each) for each in zip(units, of_each, strict=True)]
    if known is None:
        return [exporter.encode(u, i, d, recipe) for u, i, d in zip(units, inputs, of_each, strict=True)]
    with turn(known.device):
        return cast(Compensating, exporter).compensate(units, inputs, of_each, recipe, known)


@lru_cache(1)
def _inputs(folder: Path, digest: str, device: torch.device) -> Inputs:
    """One for all formats of a run that read the same statistics: what one has factored serves the next."""
    return Inputs(open_statistics(folder), device)
