"""The two families of names and configs that FP8 and NVFP4 weights are written in."""

from types import ModuleType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from exporters.formats import compressed_tensors, modelopt
from sixfold.recipes.recipe import Recipe

_LAYOUTS = {"compressed-tensors": compressed_tensors, "modelopt": modelopt}


class LayoutOptions(BaseModel):
    """layout: whose names and config the files carry. kv_cache: fp8 for engines that cache keys and values in FP8, by
    scales that calibration finds; else in 16 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal["compressed-tensors", "modelopt"] = "compressed-tensors"
    kv_cache: Literal["fp8"] | None = None


def layout_name(recipe: Recipe) -> str:
    return LayoutOptions.model_validate(recipe.options).layout


def caches_fp8(recipe: Recipe) -> bool:
    return LayoutOptions.model_validate(recipe.options).kv_cache == "fp8"


def layout_of(recipe: Recipe) -> ModuleType:
    """The module with the recipe's layout: its constants, and `texts` for its config files."""
    return _LAYOUTS[layout_name(recipe)]
