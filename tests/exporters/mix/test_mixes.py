"""Damage, prices and the mixes that come of them, on the bundled model."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from calibration.calibrate import calibrate
from calibration.texts.tokens import token_batches
from cli.results.verdicts import artifact_of
from exporters.export.planning import plan_of, prepare
from exporters.export.run import Exported, export
from exporters.mix.ladder import ladder
from exporters.mix.probe import LENGTH, SAMPLES, TYPE, ProbeRounding
from exporters.rounding.compensate import compensate
from exporters.rounding.inputs import Inputs
from exporters.rounding.kquants import FORMS
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration, Recipe, load_recipes
from sixfold.statistics.damages import FILE, Damages, damages_of
from sixfold.statistics.input_moments import FIRST
from sixfold.statistics.statistics import Statistics
from sixfold.texts.held_out_text import Windows
from tests.exporters.exported import DEMO, silent
from tests.few_windows import few_windows
from verification.divergence.divergence import reference_of, scored
from verification.verify import verify

pytestmark = pytest.mark.arithmetic

PROFILE = Calibration(samples=8, length=256, sample_rows=32)
O_PROJ = "model.layers.0.self_attn.o_proj"


def recipe(name: str, *overrides: str) -> Recipe:
    (found,) = load_recipes(name, ["rounding=nearest", *overrides])
    return found.model_copy(update={"calibration": PROFILE})


def tokens(source: Source) -> torch.Tensor:
    return token_batches(PROFILE, load_tokenizer(source.checkpoint.folder)).ids


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def statistics(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    return calibrate(demo, PROFILE, tmp_path_factory.mktemp("calibration"), progress=silent).statistics


@pytest.fixture(scope="module")
def damages(demo: Source, statistics: Statistics) -> Damages:
    for name in ("nvfp4-auto", "gguf-auto"):  # the second adds embeddings and head
        prepare(demo, recipe(name), statistics, lambda: tokens(demo), silent)
    return damages_of(demo, statistics)


def made(source: Source, statistics: Statistics, of: Recipe, root: Path) -> tuple[Path, Exported]:
    done = export(source, of, Workspace(root, "m"), statistics, threads=1, progress=silent)
    return artifact_of(done.folder, done.manifest), done


def read(source: Source, linear: str) -> torch.Tensor:
    rows = source.checkpoint.tensors[f"{linear}.weight"].shape[0]
    return source.checkpoint.read(TensorSlice(f"{linear}.weight", 0, rows)).float()


def output_error(source: Source, statistics: Statistics, rounded: torch.Tensor) -> float:
    """Of o_proj's outputs over the calibration's tokens, first ones with their weight, relative, as it is defined."""
    weight, found = read(source, O_PROJ), statistics.site(O_PROJ, ["count", "first", "first_count"])
    first = torch.outer(found["first"], found["first"])
    others = statistics.moments(O_PROJ) / found["count"] - found["first_count"] / found["count"] * first
    moments = others + FIRST * min(1, others.trace() / first.trace()) * first
    off = rounded - weight
    return float((off @ moments * off).sum() / (weight @ moments * weight).sum())


def test_damage_is_the_error_of_the_outputs(demo: Source, statistics: Statistics, damages: Damages) -> None:
    rounded = ProbeRounding()(read(demo, O_PROJ))
    expected = output_error(demo, statistics, rounded)
    assert damages.parts[O_PROJ].damages[TYPE].nearest == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["Q3_K", "Q5_K"])
def test_what_compensation_leaves_is_foretold_without_compensating(
    kind: str, demo: Source, statistics: Statistics, damages: Damages
) -> None:
    """Scales that are searched, and sweeps, take a further part."""
    factor = Inputs(statistics, torch.device("cpu")).factor(O_PROJ)
    assert factor is not None
    left = output_error(demo, statistics, compensate(read(demo, O_PROJ)[None], factor, FORMS[kind]).values[0])
    foretold = damages.parts[O_PROJ].damages[kind]
    assert 0.6 * foretold.compensated < left < 1.1 * foretold.compensated < foretold.nearest


class OneRounded:
    """The source's weights, but for one, in the form that verification reads."""

    def __init__(self, source: Source, weight: str) -> None:
        self.source, self.weight = source, weight

    def names(self) -> list[str]:
        return list(self.source.checkpoint.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.checkpoint.tensors[name].shape

    def dtype(self, name: str) -> str:
        return self.source.checkpoint.tensors[name].dtype

    def encoding(self, name: str) -> str:
        return ""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        rows = (self.shape(name) or (1,))[0]
        values = self.source.checkpoint.read(TensorSlice(name, 0, rows)).float()
        return (ProbeRounding()(values) if name == self.weight else values)[start:stop]


@pytest.mark.parametrize("part", [O_PROJ, "lm_head", "model.embed_tokens"])
def test_a_price_is_the_divergence_that_verification_finds(
    part: str, demo: Source, damages: Damages, tmp_path: Path
) -> None:
    ids = [row[:LENGTH] for row in tokens(demo)[:SAMPLES]]
    windows = Windows(tuple(ids), ("calibration",) * len(ids), part)
    reference = reference_of(demo, windows, tmp_path, silent)
    found = scored(demo, OneRounded(demo, f"{part}.weight"), {}, windows, reference, silent).score
    known = damages.parts[part]
    assert known.price == pytest.approx(found.mean_kl / known.damages[TYPE].nearest, rel=1e-3)


def test_every_part_has_a_price_of_its_own(damages: Damages) -> None:
    prices = [part.price for part in damages.parts.values()]
    assert len(prices) == 16  # of two layers: four of attention, three of experts; embeddings and head
    assert len(set(prices)) == 16
    assert all(prices)


def test_damage_is_foretold_once_for_all_formats(demo: Source, statistics: Statistics, damages: Damages) -> None:
    before = (statistics.folder / FILE).stat().st_mtime_ns
    for name in ("gguf-auto", "nvfp4-auto"):
        prepare(demo, recipe(name), statistics, None, silent)
    assert (statistics.folder / FILE).stat().st_mtime_ns == before
    assert {"Q4_K", "NVFP4A16"} <= damages.parts[O_PROJ].damages.keys()


def test_a_mix_fills_its_budget_is_planned_and_sound(
    demo: Source, statistics: Statistics, damages: Damages, tmp_path: Path
) -> None:
    of = recipe("gguf-auto", "budget.bits=4.85")
    budget = int(4.85 * sum(torch.Size(t.shape).numel() for t in demo.checkpoint.tensors.values()) / 8)
    dry, plan = plan_of(demo, of, None), plan_of(demo, of, statistics)
    assert dry is not None
    assert plan is not None
    path, done = made(demo, statistics, of, tmp_path)
    assert path.name == "minimax-m2-4.6m-AUTO-4.85bpw.gguf"
    assert path.stat().st_size == plan.files[0].nbytes
    assert 0.99 * budget <= path.stat().st_size <= budget
    assert 0.99 * budget <= dry.files[0].nbytes <= budget
    file = GGUFReader(path)
    assert "general.file_type" not in file.fields  # llama.cpp names it by the type of most tensors
    assert len({tensor.tensor_type for tensor in file.tensors}) > 3
    assert any("bits a weight" in note and "the damage that the calibration foretells" in note for note in done.notes)
    with few_windows("verification.measure.held_out"):
        checked = verify(path, demo, silent)
    assert checked.passed
    assert checked.findings == (), [str(finding) for finding in checked.findings]
    _, again = made(demo, statistics, of, tmp_path)
    assert again.skipped


def test_only_the_types_that_a_recipe_allows_are_used(demo: Source, statistics: Statistics, damages: Damages) -> None:
    plan = plan_of(demo, recipe("gguf-auto", "budget.types=[Q4_K, Q6_K]", "budget.bits=5.5"), statistics)
    assert plan is not None
    assert {tensor.dtype for tensor in plan.tensors} == {"F32", "Q4_K", "Q6_K"}


@pytest.mark.parametrize(("name", "header"), [("gguf-auto", 0), ("nvfp4-auto", 30_000)])
def test_each_rung_of_the_ladder_is_what_a_budget_of_its_bytes_makes(
    name: str, header: int, demo: Source, statistics: Statistics, damages: Damages
) -> None:
    """A folder's headers are shorter the fewer scales they name."""
    rungs = ladder(demo, recipe(name), statistics, 5)
    assert [rung.nbytes for rung in rungs] == sorted(rung.nbytes for rung in rungs)
    assert [rung.kl for rung in rungs] == sorted((rung.kl for rung in rungs), reverse=True)
    for rung in rungs:
        plan = plan_of(demo, recipe(name, f"budget.bytes={rung.nbytes}"), statistics)
        assert plan is not None
        assert rung.nbytes - header <= plan.files[0].nbytes <= rung.nbytes


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (["budget.bits=1.5"], SixfoldError, r"takes .* at least in the types that a mix may have, and the budget is"),
        (["budget.types=[Q4_X]"], UsageError, r"budget.types has Q4_X, which no mix may have"),
        (["scheme=Q4_K_M"], UsageError, r"a budget is for mixes, and Q4_K_M is one"),
        (["options.imatrix=false"], UsageError, r"types are chosen by what calibration measured"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_any_work(
    overrides: list[str], error: type[SixfoldError], says: str, demo: Source
) -> None:
    with pytest.raises(error, match=says):
        plan_of(demo, recipe("gguf-auto", *overrides), None)


def test_a_budget_where_nothing_is_mixed_is_refused(demo: Source) -> None:
    with pytest.raises(UsageError, match="the exporter awq makes one type of everything"):
        plan_of(demo, recipe("awq", "budget.bits=4.5"), None)


@pytest.mark.parametrize(
    ("name", "scheme", "layout"),
    [("nvfp4", "NVFP4A16", "nvfp4-pack-quantized"), ("awq", "W4A16_ASYM", "pack-quantized")],
)
def test_four_bits_with_fp8_for_what_suffers_are_sound(
    name: str, scheme: str, layout: str, demo: Source, statistics: Statistics, damages: Damages, tmp_path: Path
) -> None:
    of = recipe("nvfp4-auto", "budget.times=1.1", f"scheme={scheme}")
    prepare(demo, of, statistics, None, silent)
    path, _ = made(demo, statistics, of, tmp_path)
    plain = plan_of(demo, recipe(name, *(["options.layout=pack-quantized"] if name == "awq" else [])), None)
    assert plain is not None
    assert 1.05 * plain.files[0].nbytes < (path / "model.safetensors").stat().st_size <= 1.1 * plain.files[0].nbytes
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert {group["format"] for group in config["config_groups"].values()} == {layout, "float-quantized"}
    with few_windows("verification.measure.held_out"):
        checked = verify(path, demo, silent)
    assert checked.passed, [str(finding) for finding in checked.findings]


def test_modelopts_mix_compensates_four_bits_and_has_fp8_with_fixed_scales(
    demo: Source, statistics: Statistics, damages: Damages, tmp_path: Path
) -> None:
    of = recipe("nvfp4-auto", "options.layout=modelopt", "rounding=compensated")
    prepare(demo, of, statistics, None, silent)
    path, _ = made(demo, statistics, of, tmp_path)
    layers = json.loads((path / "hf_quant_config.json").read_text())["quantization"]["quantized_layers"]
    assert {of["quant_algo"] for of in layers.values()} == {"FP8", "W4A16_NVFP4"}
    eight = next(name for name, of in layers.items() if of["quant_algo"] == "FP8" and name.endswith("o_proj"))
    stored = load_file(path / "model.safetensors")
    largest = float(read(demo, eight).abs().max())
    assert float(stored[f"{eight}.weight_scale"]) == pytest.approx(largest / 448, rel=1e-6)
    site, _ = statistics.place_of(eight)
    seen = float(statistics.site(site, ("abs_max",))["abs_max"].max())
    assert float(stored[f"{eight}.input_scale"]) == pytest.approx(seen / 448, rel=1e-6)
    with few_windows("verification.measure.held_out"):
        checked = verify(path, demo, silent)
    assert checked.passed, [str(finding) for finding in checked.findings]
