"""The token is nowhere but in the requests: not in what is printed, written, logged or published."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.publishing.conftest import TOKEN, Publish
from tests.publishing.fake_hub.state import Fault, Hub
from tests.publishing.made import make_model


def holds_token(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("fault", [None, {"status": 503}, {"status": 403}, {"status": 400}, {"drop": True}])
def test_nowhere(
    fault: dict[str, object] | None, hub: Hub, publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`publish` looks through what is printed. The Hub repeats the token in what it says. (What httpcore says at its
    finest level is all that goes over the wire, for whoever turns that on.)"""
    caplog.set_level(logging.DEBUG)
    make_model(tmp_path / "out")
    if fault is not None:
        for method, path in [("POST", "/repos/create"), ("PUT", "/_lfs/"), ("POST", "/commit/"), ("POST", "/items")]:
            hub.break_with(Fault(method, path, message=f"bad token {TOKEN}", times=3, **fault))  # type: ignore[arg-type]
    publish("--dry-run")
    publish()
    publish("--release")
    assert not holds_token(tmp_path)
    assert TOKEN not in "".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")
    )


def test_not_in_the_traceback_of_a_defect(
    hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "out", ("awq",))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("publishing.publish.send", lambda *arguments: {}[arguments[0]])
    assert "unexpected KeyError" in publish().err
    assert list(tmp_path.glob("sixfold-*-traceback.txt"))
    assert not holds_token(tmp_path)


def test_of_a_real_process_by_way_of_xet(hub: Hub, tmp_path: Path) -> None:
    """hf_xet keeps a log of its own."""
    make_model(tmp_path / "out", ("awq",))
    (tmp_path / "store").mkdir()
    hub.xet = f"local://{tmp_path / 'store'}"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_XET_LOG_LEVEL": "debug",
    }
    words = [
        sys.executable,
        "-m",
        "tests.publishing.plain_cards",
        "publish",
        "--org",
        "lab",
        "--out",
        str(tmp_path / "out"),
        "--yes",
    ]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "Complete: 1 repository of lab." in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert not holds_token(tmp_path)
