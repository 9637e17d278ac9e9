"""What a format must be known to besides its exporter: every shipped recipe has all of it."""

import re

import pytest

from cards.facts.variant import table
from exporters.registry import exporter_named, exporter_names
from sixfold.recipes.recipe import Recipe, load_recipes, shipped_recipes

RECIPES = {recipe.name: recipe for path in shipped_recipes() for recipe in load_recipes(str(path))}
LAYOUTS = {"bf16": "none", "gguf": "gguf", "awq": "awq"}
"""By exporter, where it is not compressed-tensors."""


def template(engine: str) -> str:
    """ "transformers (through gptqmodel)", as recipes name it -> transformers-gptqmodel, the name of its template."""
    return re.sub(r"[ ()]+(through )?", "-", engine.lower()).strip("-")


@pytest.mark.parametrize("name", exporter_names())
def test_every_exporter_can_be_had(name: str) -> None:
    assert exporter_named(name).Options


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_charts_and_cards_know_the_exporter(recipe: Recipe) -> None:
    assert recipe.exporter in table("formats.yaml").value["exporters"], "it has no color in charts, and no credit"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_card_shows_the_engines_that_the_recipe_names(recipe: Recipe) -> None:
    layout = LAYOUTS.get(recipe.exporter, "compressed-tensors")
    readers = table("formats.yaml").value["readers"]
    fitting = [r for r in readers if r["layout"] == layout and recipe.scheme in r.get("schemes", [recipe.scheme])]
    assert fitting[0]["engines"] == [template(engine) for engine in recipe.engines if "after conversion" not in engine]
