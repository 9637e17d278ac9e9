"""A hub id where a folder would do: planned from headers, downloaded, exported, and pinned in the manifest."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.families import make_family
from tests.hub_server import HubState, serve_hub, the_only_hub

REPO = "lab/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    folder = make_family("qwen3_moe", tmp_path / "repository")
    with serve_hub(REPO, folder) as state, the_only_hub(state, tmp_path / "cache", monkeypatch):
        yield state


def sixfold(*arguments: str) -> Any:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run([*arguments, "--json"]) == 0
    return json.loads(printed.getvalue())


def test_from_plan_to_status(hub: HubState, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    (planned,) = sixfold("plan", REPO, "fp8", "--out", out)["variants"]
    assert sum(hub.sent.values()) < (hub.folder / "model.safetensors").stat().st_size
    (made,) = sixfold("export", REPO, "fp8", "--out", out, "--no-verify")
    folder = Path(made["folder"])
    assert folder == tmp_path / "out" / "tiny" / "tiny-FP8"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["revision"] == "1" * 40
    assert planned["files"] == {name: record["bytes"] for name, record in manifest["files"].items()}
    (status,) = sixfold("status", REPO, "fp8", "--out", out)
    assert status["state"] == "current"


def test_a_new_commit_makes_the_artifact_stale(hub: HubState, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    sixfold("export", REPO, "bf16", "--out", out, "--no-verify")
    hub.branches["main"] = "2" * 40
    (status,) = sixfold("status", REPO, "bf16", "--out", out)
    assert (status["state"], "source.revision changed" in status["reasons"]) == ("stale", True)
