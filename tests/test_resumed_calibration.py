"""A calibration that was stopped: what status says of it, and what the next run says and does."""

import json
from pathlib import Path

import pytest

from calibration.calibrate import calibrate
from calibration.forward_pass import layer_pass
from cli.main import run
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Calibration

DEMO = str(Path(__file__).parents[1] / "demo" / "minimax-m2-4.6m")
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
    assert out.startswith("Calibrating 2 layers on 4 samples of 64 tokens, if need be: about ")
    said = sixfold(capsys, "status", DEMO, "awq", "bf16", *options)[1]
    assert "Unfinished calibration in " in said
    assert ": 1 of 2 layers.\n  With the same model" in said
    rows = json.loads(sixfold(capsys, "status", DEMO, "awq", *options, "--json")[1])
    assert rows[0]["calibrated_layers"] == 1
    code, said = sixfold(capsys, "calibrate", DEMO, "awq", *options)
    assert code == 0
    assert "The calibration went on behind 1 layer that an earlier run had finished." in said
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
