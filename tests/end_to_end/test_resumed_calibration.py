"""A calibration that was stopped: what status says of it, and what the next run says and does."""

import json
import os
import shutil
from pathlib import Path

import pytest

from calibration.calibrate import calibrate
from calibration.forward_pass import layer_pass
from cli.main import run
from sixfold.artifact.lock import exclusive
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Calibration

DEMO = str(Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m")
SMALL = ("--set", "calibration.samples=4", "--set", "calibration.length=64")


def sixfold(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(arguments)
    return code, capsys.readouterr().out


def stop_in_layer(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = layer_pass._step

    def stopping(runner, layer, *rest):  # type: ignore[no-untyped-def]
        if layer == stop:
            raise KeyboardInterrupt
        return step(runner, layer, *rest)

    monkeypatch.setattr(layer_pass, "_step", stopping)


def test_a_stopped_calibration_is_seen_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", str(tmp_path), *SMALL)
    with monkeypatch.context() as patch:
        stop_in_layer(1, patch)
        assert run(["calibrate", DEMO, "awq", *options]) == 130
    out = capsys.readouterr().out
    assert out.startswith("Calibrating 2 layers on 4 samples of 64 tokens, if needed: about ")
    said = sixfold(capsys, "status", DEMO, "awq", "bf16", *options)[1]
    assert "Unfinished calibration in " in said
    assert ": 1 of 2 layers.\n  With the same model" in said
    rows = json.loads(sixfold(capsys, "status", DEMO, "awq", *options, "--json")[1])
    assert rows[0]["calibrated_layers"] == 1
    code, said = sixfold(capsys, "calibrate", DEMO, "awq", *options)
    assert code == 0
    assert "The calibration resumed after 1 layer that an earlier run had finished." in said
    assert "again" not in said
    assert "Unfinished" not in sixfold(capsys, "status", DEMO, "awq", *options)[1]


def test_a_first_calibration_is_none_again(tmp_path: Path) -> None:
    """Its folder may be there, for another profile's statistics and for decisions."""
    (tmp_path / "decisions").mkdir()
    profile = Calibration(samples=4, length=64)
    assert calibrate(open_source(DEMO), profile, tmp_path, progress=unseen).history == ()
    (tmp_path / "layer-00000.safetensors").unlink()
    again = calibrate(open_source(DEMO), profile, tmp_path, progress=unseen).history
    assert again == ("calibrated again: layer-00000.safetensors is missing or differs from the manifest",)


@pytest.mark.parametrize("step", ["_clear", "_put_in_place", "write_imatrix", "write_json", "open_statistics"])
def test_a_kill_while_statistics_are_put_in_place_costs_no_layer(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, profile = open_source(DEMO), Calibration(samples=4, length=64)
    whole = calibrate(source, profile, tmp_path / "whole", progress=unseen)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"calibration.calibrate.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(source, profile, tmp_path / "killed", progress=unseen)
    again = calibrate(source, profile, tmp_path / "killed", progress=unseen)
    assert again.skipped or again.resumed == 3  # two layers, and what is outside of them
    left = {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir() if path.is_file()}
    expected = {path.name: path.read_bytes() for path in whole.statistics.folder.iterdir()}
    assert left.keys() == expected.keys()
    assert all(left[name] == expected[name] for name in left if name != "run.json")


def test_two_calibrations_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    source, profile = open_source(DEMO), Calibration(samples=4, length=64)
    with exclusive(tmp_path / "calibration.lock", "held by the test"):
        with pytest.raises(SixfoldError, match=r"another process is calibrating into .*; wait for it, or stop it"):
            calibrate(source, profile, tmp_path, progress=unseen)
    assert not calibrate(source, profile, tmp_path, progress=unseen).skipped


def test_a_lock_left_by_a_run_that_was_killed_with_all_done_is_cleared(tmp_path: Path) -> None:
    source, profile = open_source(DEMO), Calibration(samples=4, length=64)
    calibrate(source, profile, tmp_path, progress=unseen)
    (tmp_path / "calibration.lock").touch()
    assert calibrate(source, profile, tmp_path, progress=unseen).skipped
    assert not (tmp_path / "calibration.lock").exists()


def test_a_source_that_changes_meanwhile_gives_no_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DEMO, tmp_path / "model")
    step = layer_pass._step

    def overwriting(runner, layer, *rest):  # type: ignore[no-untyped-def]
        os.utime(tmp_path / "model" / "model.safetensors", (1, 1))
        return step(runner, layer, *rest)

    monkeypatch.setattr(layer_pass, "_step", overwriting)
    profile = Calibration(samples=4, length=64)
    with pytest.raises(SixfoldError, match=r"model.safetensors changed while it was being read; run the same command"):
        calibrate(open_source(tmp_path / "model"), profile, tmp_path / "out", progress=unseen)
    assert not list((tmp_path / "out").iterdir())
