"""What a user runs: every format of a checkpoint by the command line, and what stands there after."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cards.facts.model_facts import read_model
from cli.main import run
from publishing.changelog import Step, entry_of
from sixfold.artifact.workspace import sha256_of
from sixfold.sizes import size
from tests.families import make_family
from tests.made_once import made_once
from tests.small_demo import DEMO, small_demo

SMALL = ("--set", "calibration.samples=8", "--set", "calibration.length=128", "--set", "calibration.sample_rows=32")
VARIANTS = ["bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq"]
GGUF = ["gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0"]


def sixfold(*arguments: str, code: int = 0) -> Any:
    """Run a command, which must end with exit code `code`, and return the JSON that it prints.

    Exports are not verified: tests/end_to_end/test_export_verified.py has that.
    """
    if arguments[0] == "export":
        arguments = (*arguments, "--no-verify")
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run([*arguments, "--json"]) == code
    return json.loads(printed.getvalue())


def export_all(root: Path) -> None:
    """Of the model that is put into root/model, into root/out."""
    model, out = str(small_demo(root / "model")), str(root / "out")
    made = sixfold("export", model, "--out", out, "--threads", "2", "--license", "apache-2.0", *SMALL)
    assert [(row["recipe"], row["state"]) for row in made] == [(name, "made") for name in VARIANTS + GGUF]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "all-formats", export_all)


@pytest.fixture(scope="module")
def model(made: Path) -> str:
    return str(made / "model" / DEMO.name)


@pytest.fixture(scope="module")
def root(made: Path) -> Path:
    return made / "out"


def manifests(root: Path) -> dict[str, dict[str, Any]]:
    """Path of every manifest of an artifact -> its content."""
    found = root.glob("*/*-*/*manifest.json")
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in sorted(found)}


def test_ten_artifacts_each_with_a_manifest_and_a_card(root: Path) -> None:
    found = manifests(root)
    assert sorted(m["variant"] for m in found.values()) == sorted(VARIANTS + GGUF)
    for path, manifest in found.items():
        folder = (root / path).parent
        card = (folder / "README.md").read_text()
        for name, record in manifest["files"].items():
            assert (folder / name).stat().st_size == record["bytes"]
            assert sha256_of(folder / name) == record["sha256"]
            assert f"`{name}`" in card
            assert f"{record['bytes']:,}" in card


def test_the_plan_tells_every_byte_before(root: Path, model: str) -> None:
    planned = sixfold("plan", model, *SMALL)["variants"]
    written = {m["variant"]: m["files"] for m in manifests(root).values()}
    for variant in planned:
        files = {name: record["bytes"] for name, record in written[variant["recipe"]].items()}
        assert variant["files"] == files
        ggufs = [nbytes for name, nbytes in files.items() if name.endswith(".gguf")]
        assert variant["bytes"] == sum(ggufs or files.values())


def test_a_gguf_has_the_size_of_its_file_everywhere(root: Path, model: str) -> None:
    """In plan, status, changelog and card: the license beside it is not part of what is downloaded, and the plan's
    total counts it once."""
    (path,) = root.glob("*/*-GGUF/*-Q4_K_M.gguf")
    nbytes = path.stat().st_size
    planned = sixfold("plan", model, *SMALL)
    assert {v["recipe"]: v["bytes"] for v in planned["variants"]}["gguf-q4_k_m"] == nbytes
    written = manifests(root).items()
    once = {(Path(at).parent, name): record["bytes"] for at, m in written for name, record in m["files"].items()}
    assert planned["bytes"] == sum(once.values())
    states = sixfold("status", model, "--out", str(root), *SMALL)
    assert {row["recipe"]: row["bytes"] for row in states}["gguf-q4_k_m"] == nbytes
    manifest = json.loads(Path(f"{path}.manifest.json").read_text())
    assert len(manifest["files"]) == 2
    assert f"; {size(nbytes)} in 2 files" in entry_of(1, "2026-01-01", [Step(None, manifest)])
    shown = size(nbytes).replace(" ", "\N{NO-BREAK SPACE}")
    assert f"| {shown} |" in (path.parent / "README.md").read_text()
    facts = {artifact.file: artifact.nbytes for artifact in read_model(path.parents[1]).of(path.parent)}
    assert facts[path.name] == nbytes


def test_a_second_run_skips_everything(root: Path, model: str) -> None:
    rows = sixfold("export", model, "--out", str(root), *SMALL)
    assert {row["state"] for row in rows} == {"current"}
    states = sixfold("status", model, "--out", str(root), *SMALL)
    assert {row["state"] for row in states} == {"current"}


def test_one_thread_writes_the_same_bytes(root: Path, model: str, tmp_path: Path) -> None:
    """With the same statistics and decisions; everything else is made anew. A format of every kind: NVFP4's weights
    are in nvfp4-gb10, the other K-quants in Q4_K_M."""
    kinds = ("bf16", "fp8", "nvfp4-gb10", "awq", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q8_0")
    for folder in root.glob("*/calibration"):
        shutil.copytree(folder, tmp_path / folder.relative_to(root))
    as_in_the_set = ("--set", "rounding=compensated")
    sixfold("export", model, *kinds, "--out", str(tmp_path), "--threads", "1", *SMALL, *as_in_the_set)
    assert manifests(tmp_path) == {path: m for path, m in manifests(root).items() if m["variant"] in kinds}


def test_regenerating_one_touches_nothing_else(root: Path, model: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    (manifest,) = root.glob("*/*/*Q6_K.gguf.manifest.json")
    manifest.unlink()
    sixfold("export", model, "gguf-q6_k", "--out", str(root), *SMALL)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    stem = manifest.name.removesuffix(".manifest.json")
    assert changed == {stem, f"{stem}.manifest.json", f"{stem}.run.json"}


def test_one_failing_format_does_not_stop_the_others(tmp_path: Path) -> None:
    folder = make_family("jetmoe", tmp_path / "jetmoe")
    rows = sixfold("export", str(folder), "bf16", "fp8", "--out", str(tmp_path / "out"), code=1)
    assert [row["state"] for row in rows] == ["made", "failed"]
    assert "stores the experts of a layer as one array" in rows[1]["error"]


def test_a_refused_format_is_named_before_calibration_and_hides_no_other(tmp_path: Path) -> None:
    """No tokenizer is there to calibrate with, and none is missed."""
    folder = make_family("jetmoe", tmp_path / "jetmoe")
    formats = (str(folder), "bf16", "nvfp4-gb10", "gguf-q4_k_m", "--out", str(tmp_path / "out"))
    refusals = ["stores the experts of a layer as one array", "no GGUF layout is known for model_type jetmoe"]
    rows = sixfold("export", *formats, code=1)
    assert [row["state"] for row in rows] == ["made", "failed", "failed"]
    assert all(refusal in row["error"] for refusal, row in zip(refusals, rows[1:], strict=True))
    assert not (tmp_path / "out" / "jetmoe" / "calibration").exists()
    planned = sixfold("plan", *formats, code=1)["variants"]
    assert planned[0]["bytes"] == rows[0]["bytes"]
    assert [variant["error"] for variant in planned[1:]] == [row["error"] for row in rows[1:]]
    status = sixfold("status", *formats)
    assert [row["state"] for row in status] == ["current", "refused", "refused"]
    assert [row["reasons"] for row in status[1:]] == [[row["error"]] for row in rows[1:]]


def test_bad_usage_keeps_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(DEMO), "fp8", "--out", str(tmp_path), "--set", "scheme=FP9"]) == 2
    assert "FP9" in capsys.readouterr().err


def test_a_rerun_keeps_the_provenance_that_was_stated(tmp_path: Path) -> None:
    arguments = ("export", str(DEMO), "bf16", "--out", str(tmp_path))
    (made,) = sixfold(*arguments, "--base-model", "someone/Original")
    card = Path(made["folder"]) / "README.md"
    assert "base_model: someone/Original" in card.read_text()
    sixfold(*arguments)
    assert "base_model: someone/Original" in card.read_text()
    sixfold(*arguments, "--base-model", "someone/Else")
    assert "base_model: someone/Else" in card.read_text()


def test_a_gguf_file_states_the_provenance_and_is_stale_when_another_is_stated(tmp_path: Path) -> None:
    arguments = (str(DEMO), "gguf-q8_0", "--out", str(tmp_path))
    (made,) = sixfold("export", *arguments, "--authors", "Lab A")
    (file,) = Path(made["folder"]).glob("*.gguf")
    assert b"Lab A" in file.read_bytes()
    (again,) = sixfold("export", *arguments, "--authors", "Lab B")
    assert (again["state"], again["reasons"]) == ("made", ["provenance.authors changed"])
    assert b"Lab B" in file.read_bytes()


def test_statistics_of_another_version_are_as_none(tmp_path: Path) -> None:
    """fp8 needs none, and nvfp4-gb10 is no longer current."""
    formats = (str(DEMO), "fp8", "nvfp4-gb10", "--out", str(tmp_path), *SMALL)
    sixfold("export", *formats)
    (manifest,) = tmp_path.glob("*/calibration/*/manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 0}))
    states = {row["recipe"]: (row["state"], row["reasons"]) for row in sixfold("status", *formats)}
    assert states == {"fp8": ("current", []), "nvfp4-gb10": ("stale", ["statistics changed"])}
    (card,) = tmp_path.glob("*/*-FP8/README.md")
    card.unlink()
    sixfold("export", str(DEMO), "fp8", "--out", str(tmp_path), *SMALL)
    assert card.exists()
