"""What costs most, and that a proposal does what it promises."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cli import main as cli
from sixfold.model.source import Source
from tests.exporters.exported import DEMO, silent
from tests.few_windows import few_windows
from tests.verification.artifacts import Artifacts
from tests.verification.damage import copy_folder, copy_gguf
from verification.divergence.attribution import Cost, Part, parts_of_model, propose
from verification.measure import runs_of
from verification.suggest import _nbytes, suggest

SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments: str) -> Any:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert cli.run([*arguments, "--json"]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module", autouse=True)
def _few_windows() -> Iterator[None]:
    """Every eighth window is text enough to tell parts from each other here, and its beginning to hold a gate."""
    with few_windows("verification.measure.held_out"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("verification.suggest._EVERY", 8)
        yield


@pytest.fixture(scope="module")
def nvfp4(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An artifact, and what was proposed for it."""
    folder = copy_folder(artifacts["nvfp4"], tmp_path_factory.mktemp("suggested") / "kept")
    return folder, run("suggest", str(folder), "--against", str(DEMO), "--max-kl", "0.1")


@pytest.fixture(scope="module")
def q3_k_m(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file, and what was printed for it."""
    file, printed = copy_gguf(artifacts["gguf-q3_k_m"], tmp_path_factory.mktemp("suggested") / "x.gguf"), io.StringIO()
    with redirect_stdout(printed):
        assert cli.run(["suggest", str(file), "--against", str(DEMO), "--max-kl", "0.15"]) == 0
    return file, printed.getvalue()


@pytest.mark.parametrize("variant", ["nvfp4", "gguf-q4_k_m"])
def test_parts_are_all_that_is_quantized_each_found_by_its_pattern(
    variant: str, artifacts: Artifacts, demo: Source
) -> None:
    weights, _ = runs_of(artifacts[variant], demo)
    nbytes = _nbytes(artifacts[variant], demo, weights)
    parts = parts_of_model(demo, weights, nbytes, experts_together=variant == "nvfp4")
    linears = [linear for linear in demo.architecture.linears if linear.layer is not None]
    quantized = {linear.weight for linear in linears if weights.encoding(linear.weight)}
    assert set().union(*(part.weights for part in parts)) == quantized
    assert sum(len(part.weights) for part in parts) == len(quantized)
    for part in parts:
        assert {linear.weight for linear in linears if re.search(part.keep, linear.name)} == part.weights
        assert part.saved > 0


def test_a_proposal_is_the_cheapest_of_all_choices() -> None:
    values = [(0.5, 100), (0.3, 30), (0.1, 25), (0.06, 5), (0.04, 60)]
    costs = [Cost(Part(str(n), frozenset(), "", saved), kl) for n, (kl, saved) in enumerate(values)]
    for target in (0.9, 0.5, 0.35, 0.2, 0.03):
        choices = [
            (sum(s for (_, s), on in zip(values, chosen, strict=True) if on), chosen)
            for chosen in product((False, True), repeat=5)
            if 1 - sum(k for (k, _), on in zip(values, chosen, strict=True) if on) <= target + 2e-3
        ]
        proposal = propose(costs, 1.0, target)
        assert proposal is not None
        assert proposal.kl <= target
        assert proposal.extra == min(choices)[0]
    assert propose(costs, 1.0, -0.1) is None
    assert propose([], 1.0, 0.5) is None


def test_what_is_proposed_brings_the_variant_under_its_gate(nvfp4: tuple[Path, Any], tmp_path: Path) -> None:
    """The estimate is made on a part of the text, so the gate is held with a tenth to spare or to lack."""
    folder, found = nvfp4
    assert found["mean_kl"] > 0.1 >= found["proposal"]["mean_kl"]
    keep = json.dumps(found["proposal"]["keep"])
    (made,) = run("export", str(DEMO), "nvfp4", "--out", str(tmp_path), "--no-verify", "--set", f"keep={keep}")
    verified = run("verify", made["folder"], "--against", str(DEMO))
    assert verified["divergence"]["scores"]["weights"]["mean_kl"] < 0.1 * 1.1
    smaller = run("verify", str(folder), "--against", str(DEMO))["divergence"]["scores"]["weights"]
    assert smaller["mean_kl"] > 0.15


def test_the_table_ends_with_an_override_that_can_be_pasted(q3_k_m: tuple[Path, str]) -> None:
    _, out = q3_k_m
    assert " --set 'keep=[\"^" in out
    assert "experts' gate, layer 0" in out


def test_what_was_rescaled_together_is_measured_together(artifacts: Artifacts, demo: Source) -> None:
    """AWQ: the norm, the router and all experts of a layer; each alone would compute something else."""
    found = suggest(artifacts["awq"], demo, 0.1, silent)
    assert {cost.part.name for cost in found.costs} == {
        f"{kind}, layer {layer}" for kind in ("attention", "feed-forward") for layer in range(2)
    }
    (moe,) = (cost.part for cost in found.costs if cost.part.name == "feed-forward, layer 1")
    prefix = "model.layers.1."
    assert moe.weights == {
        prefix + "post_attention_layernorm.weight",
        prefix + "block_sparse_moe.gate.weight",
        *(f"{prefix}block_sparse_moe.experts.{n}.{w}.weight" for n in range(8) for w in ("w1", "w2", "w3")),
    }
    assert sum(cost.kl for cost in found.costs) == pytest.approx(found.kl, rel=0.3)
    assert max(cost.kl for cost in found.costs) < found.kl


def test_what_is_not_quantized_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = copy_folder(DEMO, tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(["suggest", str(folder), "--against", str(DEMO)]) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_table_and_picture_stand_beside_the_artifact(nvfp4: tuple[Path, Any], q3_k_m: tuple[Path, str]) -> None:
    folder, printed = nvfp4
    assert json.loads((folder / "attribution.json").read_text()) == printed
    for beside in (folder / "attribution", q3_k_m[0].with_suffix(".gguf.attribution")):
        found = json.loads(Path(f"{beside}.json").read_text())
        costs = [part["mean_kl"] for part in found["parts"]]
        assert costs == sorted(costs, reverse=True)
        svg = ElementTree.fromstring(Path(f"{beside}.svg").read_text())
        bars = [rect for rect in svg.iter(f"{SVG}rect") if len(rect)]
        assert len(bars) == len(costs)
        lengths = [float(bar.attrib["width"]) for bar in bars]
        assert [length / lengths[0] for length in lengths] == pytest.approx([kl / costs[0] for kl in costs], abs=0.01)
        kept = {part["part"] for part in found["parts"] if part["keep"] in found["proposal"]["keep"]}
        marked = {str(bar.findtext(f"{SVG}title")).partition(":")[0] for bar in bars if "marked" in bar.attrib["class"]}
        assert marked == kept
