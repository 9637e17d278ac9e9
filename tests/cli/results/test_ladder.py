"""The ladder's command is one that runs: program and model as they were named, and the folder of outputs."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.results.ladder import show_ladder
from exporters.mix.ladder import Rung

NAMED: Any = SimpleNamespace(checkpoint=SimpleNamespace(name="m"))


@pytest.mark.parametrize(("exporter", "recipe"), [("gguf", "gguf-auto"), ("awq", "nvfp4-auto")])
def test_the_command_names_what_was_named_and_where_it_is(
    exporter: str,
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/sixfold", "suggest"])
    out = tmp_path / "my artifacts"
    show_ladder(tmp_path, NAMED, "my model", out, None, exporter)
    asked = ["my model", recipe, "--out", str(out)]
    told = capsys.readouterr().out.splitlines()[-1].partition("this finds out: ")[2]
    assert shlex.split(told) == [".venv/bin/sixfold", "calibrate", *asked]
    rungs = (Rung(1000, 0.5, {}), Rung(2000, 0.25, {"a": "Q8_0"}))
    monkeypatch.setattr("exporters.mix.ladder.ladder", lambda *_: rungs)
    show_ladder(tmp_path, NAMED, "my model", out, NAMED, exporter)
    told = capsys.readouterr().out.splitlines()[-1].partition("To make one: ")[2]
    assert shlex.split(told) == [".venv/bin/sixfold", "export", *asked, "--set", "budget.bytes=2000"]


def test_the_usual_folder_of_outputs_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    show_ladder(tmp_path, NAMED, "m", tmp_path / "artifacts", None, "gguf")
    assert capsys.readouterr().out.splitlines()[-1].endswith(" calibrate m gguf-auto")
