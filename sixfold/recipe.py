"""Recipes: one YAML per variant, `extends:`, `--set`, sets of recipes; every error at once with file, key and remedy."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Strict):
    """texts: "builtin" or paths. samples x length tokens are drawn with `seed`; sample_rows rows of each site are kept."""

    texts: tuple[str, ...] = ("builtin",)
    samples: int = 64
    length: int = 512
    seed: int = 0
    sample_rows: int = 128


class Gates(_Strict):
    max_mean_kl: float | None = None
    min_top1: float | None = None


class Recipe(_Strict):
    """One variant. options: checked against the exporter's own `Options` model.

    keep: regular expressions of Linear names (searched) that stay in the source's precision beyond the architecture's own list.
    indivisible: what happens to a Linear whose size its group does not divide.
    """

    name: str
    suffix: str
    title: str
    exporter: str
    scheme: str
    keep: tuple[str, ...] = ()
    indivisible: Literal["keep", "fail"] = "keep"
    calibration: Calibration = Calibration()
    engines: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    gates: Gates = Gates()
    options: dict[str, Any] = {}


def load_recipes(name: str, overrides: tuple[str, ...] = ()) -> tuple[Recipe, ...]:
    """A shipped name, a set's name or a path -> the resolved recipe(s). Raises UsageError with all errors at once."""
    raise NotImplementedError


def shipped_recipes() -> tuple[Path, ...]:
    raise NotImplementedError
