"""sixfold card renders what is stale, and says what is."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.cards.model_folder import PROVENANCE, manifest, put, source


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A root with one model of two variants, and what is no model."""
    source(tmp_path / "Tiny", **PROVENANCE)
    put(tmp_path / "Tiny", manifest("FP8"))
    put(tmp_path / "Tiny", manifest("GGUF", "Q8_0"))
    (tmp_path / "empty").mkdir()
    return tmp_path


def card(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert run(["card", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def states(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {Path(row["card"]).parent.name: row["state"] for row in rows}


def test_every_card_of_every_model(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(card(capsys, "--out", str(out))) == {"Tiny-FP8": "written", "Tiny-GGUF": "written"}
    assert states(card(capsys, "--out", str(out))) == {"Tiny-FP8": "current", "Tiny-GGUF": "current"}


@pytest.mark.parametrize("asked", ["{out}/Tiny/Tiny-FP8", "{out}/Tiny/Tiny-FP8/"])
def test_one_variant(asked: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(card(capsys, asked.format(out=out))) == {"Tiny-FP8": "written"}


@pytest.mark.parametrize("asked", ["{out}/Tiny", "Tiny", "someone/Tiny"])
def test_one_model(asked: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = card(capsys, asked.format(out=out), "--out", str(out))
    assert states(rows) == {"Tiny-FP8": "written", "Tiny-GGUF": "written"}


def test_a_variant_among_its_siblings_by_a_relative_path(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out / "Tiny")
    assert states(card(capsys, "Tiny-FP8")) == {"Tiny-FP8": "written"}


def test_check_writes_nothing_and_tells_what_is_stale(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(states(card(capsys, "--out", str(out), "--check", code=1)).values()) == {"missing"}
    assert not list(out.rglob("README.md"))
    card(capsys, "--out", str(out))
    assert set(states(card(capsys, "--out", str(out), "--check")).values()) == {"current"}
    put(out / "Tiny", manifest("FP8", files={"model.safetensors": 99}))
    rows = card(capsys, "--out", str(out), "--check", code=1)
    assert states(rows) == {"Tiny-FP8": "stale", "Tiny-GGUF": "current"}
    assert any("'1.23 GB' is 99 in artifact_bytes of manifest.json#/files" in wrong for wrong in rows[0]["wrong"])


def test_what_the_hub_would_refuse_is_said(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source(out / "Tiny", license="apache 2")
    assert run(["card", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        "the Hub would reject the card of Tiny-FP8, Tiny-GGUF: license 'apache 2' is not one that the Hub knows"
        in printed
    )


def test_a_change_by_hand_that_does_not_last_is_said(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card(capsys, "--out", str(out))
    path = out / "Tiny/Tiny-FP8/README.md"
    path.write_text(path.read_text().replace("## Checksums\n", "## Checksums\n\nAll of them.\n"))
    assert run(["card", "--out", str(out)]) == 0
    assert (
        "was edited in rendered parts (Checksums); the earlier text is kept in README.before.md"
        in capsys.readouterr().out
    )


def test_a_model_without_artifacts_is_bad_usage(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["card", "Other", "--out", str(out)]) == 2
    assert "there are no artifacts of Other" in capsys.readouterr().err
    assert run(["card", str(out / "empty")]) == 2
