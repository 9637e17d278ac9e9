"""The clean BF16 folder: every tensor of the source, dequantized where it was stored quantized."""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict

from exporters.protocol import Decided, Decisions
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import carried_texts, config_text, kept_draft, place
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics


class Options(BaseModel):
    """The bf16 exporter takes no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Bf16Exporter:
    Options: type[BaseModel] = Options

    def needs_statistics(self, recipe: Recipe) -> bool:
        return False

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        checkpoint = source.checkpoint.as_stored
        return place(
            [kept_draft(source, tensor) for tensor in checkpoint.tensors.values()],
            variant=recipe.name,
            folder=f"{checkpoint.name}-{recipe.suffix}",
            texts={"config.json": config_text(source, None), **carried_texts(source)},
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        return Decided({})

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        raise SixfoldError(f"the bf16 exporter only copies and casts, but was asked for {unit.encoding}")


EXPORTER = Bf16Exporter()
