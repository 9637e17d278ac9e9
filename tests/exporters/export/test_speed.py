"""Seconds that are foretold of an export, against weights and bytes counted here."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporters.export import speed
from exporters.export.planning import plan_all
from exporters.export.speed import FACTOR, export_seconds, rounding_speed
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.runner.machine_speed import MachineSpeed, Rounding
from tests.families import make_family

SPEED = MachineSpeed(
    2, "", 1e6, 1e5, digest=1e15, products=1, singles=1, rounding={"fp8": Rounding(3e-6)}, kept=1, moved=1e3
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(make_family("qwen3_moe", tmp_path_factory.mktemp("models") / "tiny"))


def recipe(name: str, rounding: str = "nearest") -> Recipe:
    return load_recipes(name, [f"rounding={rounding}"])[0]


def foretold(source: Source, *recipes: Recipe, **changes: object) -> dict[str, float]:
    """Of all that goes on side by side."""
    found = export_seconds(source, plan_all(source, recipes), replace(SPEED, **changes))  # type: ignore[arg-type]
    return {name: seconds for parts in found for name, seconds in parts.items()}


def quantized(source: Source) -> int:
    """Weights of all Linears but the routers and the head."""
    linears = [li for li in source.architecture.linears if li.layer is not None and li.quantizable]
    return sum(li.in_features * li.out_features for li in linears)


def test_weights_take_cores_and_bytes_the_disk(source: Source) -> None:
    (planned,) = plan_all(source, [recipe("fp8")])
    assert planned.plan is not None
    stored = sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())
    seconds = foretold(source, recipe("fp8"))
    assert seconds["cores"] == pytest.approx(quantized(source) * 3e-6 / 2)
    assert seconds["disk"] == pytest.approx(stored / 1e6 + planned.plan.nbytes / 1e5)
    assert seconds["gpu"] == 0
    hashed = foretold(source, recipe("fp8"), digest=1e6)["cores"] - seconds["cores"]
    assert hashed == pytest.approx(planned.plan.nbytes / 1e6 / 2, rel=1e-6)


def test_what_two_formats_share_is_counted_once(source: Source) -> None:
    rounding = {"nvfp4": Rounding(5e-6), "nvfp4+": Rounding(0, 1e-9, at_gpu=True)}
    both = foretold(source, recipe("nvfp4"), recipe("nvfp4-gb10"), rounding=rounding)
    assert both["cores"] == pytest.approx(foretold(source, recipe("nvfp4"), rounding=rounding)["cores"])
    compensated = (recipe("nvfp4", "compensated"), recipe("nvfp4-gb10", "compensated"))
    each = [foretold(source, one, rounding=rounding)["gpu"] for one in compensated]
    assert each[0] == each[1] > 0  # by channels: see Rounding
    assert foretold(source, *compensated, rounding=rounding)["gpu"] == pytest.approx(sum(each))


def test_an_input_is_factored_and_moved_once_for_all_formats(source: Source) -> None:
    """Its second moments as it is moved there: half a matrix of float16, twice."""
    rounding = {f"{kind}+": Rounding(0, 1e-9, at_gpu=True) for kind in ("fp8", "nvfp4")}
    rounding |= {"fp8": Rounding(1e-6), "nvfp4": Rounding(1e-6)}
    recipes = (recipe("fp8", "compensated"), recipe("nvfp4", "compensated"))
    channels = {(li.site, li.expert): li.in_features for li in source.architecture.linears if li.layer is not None}
    read = [n for (site, _), n in channels.items() if not site.endswith(".gate")]
    without = foretold(source, *recipes, rounding=rounding)
    factors = foretold(source, *recipes, rounding=rounding | {FACTOR: Rounding(0, 1e-9, at_gpu=True)})
    assert factors["gpu"] - without["gpu"] == pytest.approx(sum(n**3 for n in read) * 1e-9)
    moved = "moving to the GPU"
    assert without[moved] == pytest.approx(quantized(source) * 2 / 1e3)
    assert factors[moved] - without[moved] == pytest.approx(sum(n**2 for n in read) * 2 / 1e3)


def test_what_one_process_compiles_is_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own share, to nearest and compensated."""
    ran: list[str] = []
    monkeypatch.setattr(speed, "quantize", lambda weight, qtype, importance=None: ran.append(qtype.name))
    monkeypatch.setattr(speed, "fp8_channels", lambda weights, names, known: ran.append("fp8+"))
    speed._compile(1, "", [["Q8_0"], ["Q4_K", "fp8+"]])
    assert ran == ["Q4_K", "Q4_K", "fp8+", "fp8+"]  # with importance and without, and of two widths


@pytest.mark.bench
def test_every_type_of_a_shipped_recipe_is_measured(tmp_path: Path) -> None:
    found = rounding_speed()
    assert {"fp8", "nvfp4", "awq", "Q4_K", "IQ4_XS", "Q8_0", "fp8+", "nvfp4+", "awq+", "Q4_K+", FACTOR} <= found.keys()
    assert all(rounding.each + 1024 * rounding.channel > 0 for rounding in found.values())
