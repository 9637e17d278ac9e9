"""What is kept of a checkpoint beside its artifacts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sixfold.artifact.source_record import record_source
from sixfold.checkpoint.checkpoint import open_checkpoint
from sixfold.checkpoint.provenance import Provenance

DEMO = Path(__file__).parents[3] / "demo"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO / "minimax-m2-4.6m-REAP-6", tmp_path / "checkpoint"))


def record(checkpoint: Path, out: Path, **stated: str) -> dict[str, Any]:
    provenance = Provenance(**stated) if stated else None
    record_source(open_checkpoint(str(checkpoint), provenance=provenance), stated, out)
    found: dict[str, Any] = json.loads((out / "source/source.json").read_text())
    return found


def test_a_folder_of_ones_own_has_no_hub_id(checkpoint: Path, tmp_path: Path) -> None:
    found = record(checkpoint, tmp_path)
    assert (found["name"], found["hub"]) == ("minimax-m2-4.6m-REAP-6", "")
    assert found["provenance"]["license"] == "apache-2.0"
    assert json.loads((tmp_path / "source/config.json").read_text())["num_local_experts"] == 6
    assert str(checkpoint) not in json.dumps(found)


def test_what_was_stated_holds_until_something_else_is(checkpoint: Path, tmp_path: Path) -> None:
    assert record(checkpoint, tmp_path, authors="lab A")["provenance"]["authors"] == "lab A"
    assert record(checkpoint, tmp_path)["provenance"]["authors"] == "lab A"
    assert record(checkpoint, tmp_path, license="mit")["provenance"]["authors"] == "the sixfold project"


def test_another_checkpoint_of_the_name_takes_nothing_over(checkpoint: Path, tmp_path: Path) -> None:
    record(checkpoint, tmp_path, authors="lab A")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert record(checkpoint, tmp_path)["provenance"]["authors"] == "the sixfold project"


def test_the_pruning_is_kept_as_long_as_it_is_true(checkpoint: Path, tmp_path: Path) -> None:
    record(checkpoint, tmp_path)
    kept = tmp_path / "source/pruning/plan.json"
    assert kept.read_bytes() == (checkpoint / "plan.json").read_bytes()
    (checkpoint / "manifest.json").unlink()
    record(checkpoint, tmp_path)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        ("---\nlanguage:\n- en\n- 'no'\n---\n# Card\n", ["en", "no"]),
        ("---\nlanguage: en\n---\n", ["en"]),
        ("---\nlanguage: [en\n---\n", []),
        ("# Card\n---\nlanguage: en\n---\n", []),
        ("---\nlicense: mit\n---\n", []),
    ],
)
def test_the_languages_of_the_checkpoints_own_card(
    card: str, languages: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "README.md").write_text(card)
    assert record(checkpoint, tmp_path)["language"] == languages
