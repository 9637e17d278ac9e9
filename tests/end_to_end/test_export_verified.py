"""An export ends with what it did to the model: measured once, held against gates, told in the last lines."""

import io
import json
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.main import run
from cli.make_all import Outcome, verified
from sixfold.runner.engine import HERE
from tests.few_windows import few_windows
from tests.small_demo import DEMO
from verification.gates import NOISE


@pytest.fixture(scope="module", autouse=True)
def _few_windows() -> Iterator[None]:
    with few_windows("verification.measure.held_out"):
        yield


def sixfold(*arguments: str, code: int = 0) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run(arguments) == code
    return printed.getvalue()


def export(root: Path, *arguments: str, code: int = 0) -> str:
    return sixfold("export", str(DEMO), *arguments, "--out", str(root), code=code)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    export(root, "fp8", "gguf-q8_0")
    return root


def results(root: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in root.glob("*/*/*verification.json")}


def row_of(printed: str, variant: str) -> list[str]:
    """Cells of the variant's row in the table of divergences."""
    table = printed[printed.index("Divergence from the source") :]
    (row,) = [line.split() for line in table.splitlines() if line.startswith(f"  {variant} ")]
    return row


def test_every_artifact_has_a_result_and_a_card_with_it(root: Path) -> None:
    found = results(root)
    assert set(found) == {"verification.json", "minimax-m2-4.6m-Q8_0.gguf.verification.json"}
    for result in found.values():
        assert result["passed"]
        held = result["divergence"]["scores"]["engine"]
        plain = result["divergence"]["plain"]["mean_kl"]
        assert held["mean_kl"] < result["gates"]["max_kl_ratio"] * plain
        expected = result["gates"]["max_kl_ratio"] * plain + NOISE
        assert result["allowed"]["max_mean_kl"] == pytest.approx(expected, rel=1e-5)  # six figures
    (card,) = root.glob("*/*-FP8/README.md")
    scores = found["verification.json"]["divergence"]["scores"]
    allowed = found["verification.json"]["allowed"]["max_mean_kl"]
    row = f"| FP8 | {scores['engine']['mean_kl']:.5f} | {allowed:.5f} | {scores['weights']['mean_kl']:.5f} |"
    assert row in card.read_text()


def test_a_rerun_reads_what_was_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("it was measured already")

    monkeypatch.setattr("verification.stored_result.judge_all", never)
    held = results(root)["verification.json"]["divergence"]["scores"]
    printed = export(root, "fp8", "gguf-q8_0")
    cells = row_of(printed, "fp8")
    assert (cells[3], cells[4]) == (f"{held['weights']['mean_kl']:.5f}", f"{held['engine']['mean_kl']:.5f}")
    assert cells[-1] == "passed"
    words = shlex.split(printed.splitlines()[-1].partition("Next, to see what publishing would send: ")[2])
    asked = words[words.index("publish") :]
    assert asked == ["publish", "--dry-run", "--org", "my-lab", "--name", DEMO.name, "--out", str(root)]
    assert f"Plan for my-lab: 2 repositories, collection {DEMO.name}" in sixfold(*asked)
    assert printed.splitlines()[-2] == f"Report: {root / DEMO.name / 'report.html'}"
    assert "<h1>" in (root / DEMO.name / "report.html").read_text()
    table = sixfold("verify", "--against", str(DEMO), "--out", str(root))
    assert row_of(table, "fp8") == cells
    assert table.splitlines()[-1] == f"2 of 2 variants in {root / DEMO.name} passed."


def test_a_gate_that_moves_is_held_against_what_was_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verification.stored_result.judge_all", None)
    printed = export(root, "fp8", "--set", "gates.max_mean_kl=0.0001", code=3)
    assert row_of(printed, "fp8")[-1] == "failed"
    last = printed.splitlines()[-1]
    assert last.startswith("fp8 failed: gates.max_mean_kl: the mean KL is 0.0")
    assert last.endswith("the recipe allows 0.0001")
    (card,) = root.glob("*/*-FP8/README.md")
    assert "**FP8 is not sound.** gates.max_mean_kl" in card.read_text()
    assert not results(root)["verification.json"]["passed"]
    export(root, "fp8")
    assert results(root)["verification.json"]["passed"]
    assert "not sound" not in card.read_text()


def test_a_touched_file_is_verified_again(root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(root, tmp_path / "out")
    (weights,) = (tmp_path / "out").glob("*/*-FP8/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    printed = sixfold("verify", "--against", str(DEMO), "--out", str(tmp_path / "out"), code=3)
    assert row_of(printed, "fp8")[-1] == "failed"
    assert row_of(printed, "gguf-q8_0")[-1] == "passed"
    assert any(line.startswith("fp8 failed: model.") for line in printed.splitlines())


def test_one_that_cannot_be_verified_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def judged_all(paths: list[Path], *_: object) -> list[str]:
        if tmp_path / "b" in paths:
            raise RuntimeError("a defect")
        return [f"verdict on {path.name}" for path in paths]

    monkeypatch.setattr("verification.stored_result.judged_all", judged_all)
    monkeypatch.setattr("sixfold.artifact.verification_record.verdict_of", str)
    made: Any = [SimpleNamespace(folder=tmp_path / name, manifest="manifest.json") for name in "abc"]
    outcomes = [Outcome("refused", None, "no statistics", 1), *map(Outcome, "abc", made)]
    found = verified(None, outcomes, HERE, quiet=False)  # type: ignore[arg-type]
    assert [(o.recipe, o.verdict) for o in found] == [
        ("refused", None),
        ("a", "verdict on a"),
        ("b", None),
        ("c", "verdict on c"),
    ]
    assert [bool(o.error) for o in found] == [True, False, True, False]
    assert "RuntimeError: a defect" in found[2].error


def test_what_stopped_several_formats_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the last line, and without a total of nothing."""
    missing = ("--set", "calibration.texts=[nowhere.txt]")
    printed = export(tmp_path, "awq", "nvfp4-gb10", *missing, code=2)
    assert printed.count("nowhere.txt") == 1
    assert printed.splitlines()[-1].startswith("awq, nvfp4-gb10 failed: there is no calibration text 'nowhere.txt';")
    assert "in all" not in printed
    assert "verification" not in printed
    printed = export(tmp_path, "awq", *missing, code=2)
    assert printed.count("failed") == 1
    printed = export(tmp_path, "awq", *missing, "--json", code=2)
    assert "nowhere.txt" in capsys.readouterr().err


def test_a_table_has_no_column_without_a_value(root: Path) -> None:
    """The shipped recipes have no gate on top-1."""
    printed = export(root, "fp8", "gguf-q8_0")
    assert "max KL" in printed
    assert "min top-1" not in printed


def test_no_verify_measures_nothing(tmp_path: Path) -> None:
    printed = export(tmp_path, "fp8", "--no-verify")
    assert printed.splitlines()[-1].startswith("Next, to verify: ")
    assert "Divergence" not in printed
    assert results(tmp_path) == {}
    (card,) = tmp_path.glob("*/*-FP8/README.md")
    assert "Not measured: FP8." in card.read_text()
    sixfold("verify", "--against", str(DEMO), "--out", str(tmp_path))
    assert "Not measured" not in card.read_text()


def test_what_could_not_be_measured_holds_no_gate(tmp_path: Path) -> None:
    """Without a tokenizer there is no text to run: an error where the recipe has gates, else a remark."""
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(DEMO, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    gateless = ("--set", "gates.max_kl_ratio=null")
    out = ("--out", str(tmp_path / "out"))
    printed = sixfold("export", str(bare), "fp8", *out, code=3)
    assert "fp8 failed: minimax-m2-4.6m-FP8: divergence was not measured: the tokenizer in" in printed.splitlines()[-1]
    printed = sixfold("export", str(bare), "fp8", *gateless, *out)
    assert row_of(printed, "fp8")[-2:] == ["not", "measured"]


def test_there_must_be_something_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify"]) == 2
    assert "there is nothing to verify" in capsys.readouterr().err
    assert run(["verify", "--against", str(DEMO), "--out", str(tmp_path)]) == 1
    assert f"there is no variant of minimax-m2-4.6m in {tmp_path}" in capsys.readouterr().err
