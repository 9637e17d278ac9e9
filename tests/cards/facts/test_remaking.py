"""The `--set` options that a card names make the recipe again that a manifest holds."""

import shlex

import pytest

from cards.facts.remaking import settings
from exporters.registry import exporter_named
from sixfold.recipes.recipe import Recipe, load_recipes


def loaded(name: str, overrides: list[str]) -> Recipe:
    (recipe,) = load_recipes(name, overrides, lambda exporter: exporter_named(exporter).Options)
    return recipe


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("awq", []),
        ("fp8", ["rounding=compensated", "options.layout=modelopt"]),
        ("nvfp4", [r"keep=['self_attn\.']", "calibration.texts=[builtin, my own.txt]", "calibration.length=128"]),
        ("gguf-auto", ["budget.bits=4.5"]),
        ("gguf-auto", ["budget.fits=gb10", "budget.context=32k"]),
    ],
)
def test_the_settings_make_the_same_recipe(name: str, overrides: list[str]) -> None:
    asked = loaded(name, overrides)
    found = settings(asked.model_dump(mode="json"))
    assert found is not None
    words = shlex.split(found)
    assert words[::2] == ["--set"] * len(overrides)
    assert loaded(name, words[1::2]) == asked


def test_a_recipe_that_does_not_ship_has_none() -> None:
    assert settings({**loaded("fp8", []).model_dump(mode="json"), "name": "ours"}) is None
