"""How long verifying takes, from shapes and from what was measured of this machine."""

from collections.abc import Sequence

from sixfold.artifact.plan import ExportPlan
from sixfold.model.products import products_of_a_token
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.runner.machine_speed import MachineSpeed, SideBySide
from sixfold.texts.held_out_text import most_tokens


def verification_seconds(
    source: Source, planned: Sequence[tuple[Recipe, ExportPlan]], speed: MachineSpeed
) -> SideBySide:
    """Of all variants in one walk: while matrix products in float32 are computed, they and the source are read from
    the "disk". Comparing weights, attention and the prompts are not counted."""
    read = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    read += sum(plan.nbytes for _, plan in planned)
    recipes = [recipe for recipe, _ in planned]
    runs = 1 + sum(runs_of_recipe(r.scheme, r.exporter, gated=r.gates.max_kl_ratio is not None) for r in recipes)
    products = runs * most_tokens() * products_of_a_token(source.architecture)
    return {"disk": speed.disk_seconds(read, 0)}, {"products": products / speed.singles}


def runs_of_recipe(scheme: str, exporter: str, *, gated: bool) -> int:
    """With weights alone, as an engine runs it where that rounds inputs, and plainly rounded where a gate asks."""
    if scheme == "BF16":  # the source's own
        return 0
    rounds = exporter == "gguf" or scheme.startswith("FP8") or scheme == "NVFP4"
    return 1 + rounds + gated
