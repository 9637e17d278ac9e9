"""The next command that a command names asks for the same artifacts, and runs as it stands."""

import pytest

from cli.terminal import this_command


def test_settings_are_kept_and_foreign_options_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["calibrate", "a model", "awq", "--from", "m.gguf", "--set", "calibration.texts=[a b.txt]", "--out", "o"]
    monkeypatch.setattr("sys.argv", ["/bin/sixfold", *words])
    assert this_command("calibrate", "export", without={"--from": 2}) == (
        "/bin/sixfold export 'a model' awq --set 'calibration.texts=[a b.txt]' --out o"
    )


def test_a_module_is_run_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/sixfold/__main__.py", "export", "m", "--no-verify"])
    assert this_command("export", "export", without={"--no-verify": 1}) == "python -m sixfold export m"
