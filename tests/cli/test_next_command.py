"""The next command that a command names asks for the same artifacts, and runs as it stands."""

from pathlib import Path

import pytest

from cli.results.next_step import after_export
from cli.terminal import this_command
from sixfold.artifact.workspace import Workspace
from tests.cards.model_folder import manifest, put, result, source


def test_settings_are_kept_and_foreign_options_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["calibrate", "a model", "awq", "--from", "m.gguf", "--set", "calibration.texts=[a b.txt]", "--out", "o"]
    monkeypatch.setattr("sys.argv", ["/bin/sixfold", *words])
    assert this_command("calibrate", "export", without={"--from": 2}) == (
        "/bin/sixfold export 'a model' awq --set 'calibration.texts=[a b.txt]' --out o"
    )


def test_no_publishing_is_proposed_that_would_be_refused(tmp_path: Path) -> None:
    """Without a license, unverified, or beside what cannot be read, which does not fail the export either."""
    fp8 = manifest("FP8")
    folder = put(tmp_path / "Tiny", fp8, result(fp8, gates=fp8["recipe"].setdefault("gates", {"max_kl_ratio": 1.25})))
    workspace = Workspace(tmp_path, "Tiny")
    assert after_export(["fp8"], workspace, verified=True) == ""
    source(tmp_path / "Tiny", license="mit")
    assert " publish --dry-run --org my-lab --name Tiny --out " in after_export(["fp8"], workspace, verified=True)
    put(tmp_path / "Tiny", manifest("NVFP4"))
    assert " publish fp8 --dry-run " in after_export(["fp8"], workspace, verified=True)
    assert after_export(["fp8", "nvfp4"], workspace, verified=True) == ""
    for scheme in ("AUTO-4bpw", "AUTO-5bpw"):  # two mixes of one recipe
        mix = manifest("GGUF", scheme, variant="gguf-auto")
        mix["recipe"] |= {"name": "gguf-auto", "gates": fp8["recipe"]["gates"]}
        put(tmp_path / "Tiny", mix, result(mix, gates=fp8["recipe"]["gates"]))
    assert " publish gguf-auto --dry-run " in after_export(["gguf-auto"], workspace, verified=True)
    (folder.parent / "Tiny-NVFP4/manifest.json").write_text("{")
    assert after_export(["fp8"], workspace, verified=True) == ""


def test_a_module_is_run_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/sixfold/__main__.py", "export", "m", "--no-verify"])
    assert this_command("export", "export", without={"--no-verify": 1}) == "python -m sixfold export m"
