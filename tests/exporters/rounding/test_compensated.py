"""Every format with errors compensated, read back by code that shares nothing with what wrote it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calibration.calibrate import calibrate
from cli.results.verdicts import artifact_of
from exporters.export.planning import compensates, needs_statistics, plan_of
from exporters.export.run import export
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration, Recipe, load_recipes
from sixfold.statistics.statistics import Statistics
from tests.exporters.exported import silent
from tests.small_demo import small_demo
from verification.reading.weights import CodedWeights, FolderWeights
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject
from verification.verify import verify

FORMATS = ("fp8", "nvfp4", "nvfp4-gb10", "mxfp4", "awq", "gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k")
PROFILE = Calibration(samples=8, length=256, sample_rows=32)
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(small_demo(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def statistics(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    return calibrate(demo, PROFILE, tmp_path_factory.mktemp("calibration"), progress=silent).statistics


@pytest.fixture(scope="module")
def make(demo: Source, statistics: Statistics, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The artifact of a format; each once."""
    made: dict[tuple[str, str], Path] = {}

    def artifact(name: str, rounding: str = "compensated") -> Path:
        key = (name, rounding)
        if key not in made:
            workspace = Workspace(tmp_path_factory.mktemp("out"), demo.checkpoint.name)
            done = export(demo, recipe(name, rounding), workspace, statistics, threads=1, progress=silent)
            made[key] = artifact_of(done.folder, done.manifest)
        return made[key]

    return artifact


def recipe(name: str, rounding: str = "compensated") -> Recipe:
    (found,) = load_recipes(name, [f"rounding={rounding}"])
    return found.model_copy(update={"calibration": PROFILE})


def weights_of(path: Path, source: Source) -> CodedWeights:
    return FolderWeights(open_subject(path, source)) if path.is_dir() else open_gguf_subject(path, source).weights


def manifest(path: Path) -> dict[str, object]:
    beside = path / "manifest.json" if path.is_dir() else path.with_name(f"{path.name}.manifest.json")
    return json.loads(beside.read_text())


def relative_errors(path: Path, source: Source, statistics: Statistics) -> dict[str, float]:
    """Squared error of each quantized Linear's outputs over the calibration's tokens, relative to the outputs, on the
    inputs' plain moments: without damping, and without what other experts have in common."""
    weights, found = weights_of(path, source), {}
    tensors = source.checkpoint.tensors
    for linear in source.architecture.linears:
        if not statistics.has(linear.name) or not weights.encoding(linear.weight):
            continue
        site, expert = statistics.place_of(linear.name)
        moments = statistics.moments(site) if expert is None else statistics.moments(site, [expert])[0]
        original = source.checkpoint.read(TensorSlice(linear.weight, 0, tensors[linear.weight].shape[0])).float()
        off = weights.read(linear.weight) - original
        found[linear.name] = float(((off @ moments) * off).sum() / ((original @ moments) * original).sum())
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_compensated_artifact_is_sound(name: str, make: Make, demo: Source) -> None:
    path = make(name)
    checked = verify(path, demo, silent)
    assert checked.passed, [str(finding) for finding in checked.findings]
    assert manifest(path)["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "nvfp4-gb10"])
def test_no_expert_and_no_linear_is_worse_than_rounded_to_nearest(
    name: str, make: Make, demo: Source, statistics: Statistics
) -> None:
    """Those of nvfp4-gb10 are made for inputs that are rounded too."""
    compensated = relative_errors(make(name), demo, statistics)
    nearest = relative_errors(make(name, "nearest"), demo, statistics)
    assert len(compensated) >= (12 if name == "mxfp4" else 16)  # three of each of four experts; four of attention
    assert [linear for linear in nearest if compensated[linear] > nearest[linear]] == []
    assert sum(compensated.values()) < 0.75 * sum(nearest.values())


@pytest.mark.parametrize("name", FORMATS)
def test_files_have_the_names_shapes_and_sizes_of_nearest(name: str, make: Make) -> None:
    files = [manifest(make(name, rounding))["files"] for rounding in ("compensated", "nearest")]
    sizes = [{k: v["bytes"] for k, v in found.items() if not k.endswith(".json")} for found in files]  # type: ignore[attr-defined]
    assert sizes[0] == sizes[1] != {}


def test_rounding_to_nearest_needs_no_statistics_where_the_format_needs_none() -> None:
    assert not needs_statistics(recipe("nvfp4", "nearest"))
    assert not needs_statistics(recipe("fp8", "nearest"))
    assert all(needs_statistics(recipe(name)) and compensates(recipe(name)) for name in FORMATS)


def test_what_is_not_rounded_by_codes_of_its_own_is_not_compensated() -> None:
    assert not any(compensates(recipe(name)) for name in ("bf16", "gguf-q8_0"))


def test_second_moments_that_are_turned_off_are_asked_for(demo: Source) -> None:
    (found,) = load_recipes("awq", ["calibration.moments=false"])
    with pytest.raises(UsageError, match=r"needs second moments, and calibration\.moments turns them off"):
        plan_of(demo, found, None)
    (nearest,) = load_recipes("awq", ["calibration.moments=false", "rounding=nearest"])
    assert plan_of(demo, nearest, None) is not None


def test_an_importance_matrix_leaves_nothing_to_compensate_by() -> None:
    (found,) = load_recipes("gguf-q4_k_m", ["rounding=compensated", "calibration.imatrix=their.gguf"])
    assert not compensates(found)
