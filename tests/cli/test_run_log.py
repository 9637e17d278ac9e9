"""The log of a run: what was asked and said, with the time, and what stopped it; no progress bars."""

import re
import sys
from pathlib import Path

import click
import pytest

from cli.run_log import logged


def call(folder: Path, *, fails: bool = False) -> None:
    with click.Context(click.Command("export"), info_name="export"), logged(folder):
        click.echo("fp8 done, 5 MB")
        sys.stderr.write("\x1b[2K bar 50 %\r")
        click.echo("a warning", err=True)
        if fails:
            raise ValueError("the disk is gone")


def test_what_is_said_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(tmp_path)
    shown = capsys.readouterr()
    assert (shown.out, "a warning\n" in shown.err) == ("fp8 done, 5 MB\n", True)
    (log,) = (tmp_path / "logs").glob("*-export-*.log")
    lines = log.read_text().splitlines()
    assert lines[1].startswith("sixfold ")
    assert re.fullmatch(r"[\d:]{8} fp8 done, 5 MB", lines[2])
    assert "bar" not in log.read_text()


def test_what_stopped_a_run_is_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone"):
        call(tmp_path, fails=True)
    (log,) = (tmp_path / "logs").iterdir()
    assert "ValueError: the disk is gone" in log.read_text()


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    call(tmp_path / "file")
    assert "fp8 done" in capsys.readouterr().out
