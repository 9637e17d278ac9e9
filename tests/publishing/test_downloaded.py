"""Real artifacts of every recipe, published, downloaded by hub id as a user would, and verified."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cards.model_card.front_matter import fields, problems
from cli.main import run
from sixfold.checkpoint import hub as reading
from tests.end_to_end.test_all_formats import export_all
from tests.few_windows import few_windows
from tests.made_once import made_once
from tests.publishing.conftest import Publish
from tests.publishing.fake_hub.state import Hub
from tests.publishing.made import pass_verification
from tests.small_demo import DEMO


def sixfold(*arguments: str, code: int = 0) -> Any:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run([*arguments, "--json"]) == code
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten variants of a part of the demo. What measuring their divergence would leave is written instead of
    measured: tests/end_to_end/test_export_verified.py has that, and it takes a minute."""
    out = made_once(tmp_path_factory, "all-formats", export_all) / "out"
    for manifest in out.glob(f"{DEMO.name}/{DEMO.name}-*/*manifest.json"):
        pass_verification(manifest.parent, manifest.name)
    return out


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out" / DEMO.name


pytestmark = pytest.mark.usefixtures("real_cards")


def test_every_variant_comes_back_sound(hub: Hub, publish: Publish, root: Path) -> None:
    """The bytes are those that were made, sixfold verify finds no fault in them, and the Hub's rules none in the cards,
    which name the BF16 repository as their base."""
    hub.part_bytes = 1_000_000
    assert publish("all-formats").code == 0
    verified = 0
    for name in hub.repositories:
        commit = reading.resolve_commit(name, "v1")
        sizes = reading.list_files(name, commit)
        assert sizes is not None
        folder = reading.download(name, commit, sizes)
        made = root / name.split("/")[1]
        for path in made.iterdir():
            if path.is_file() and not path.name.endswith("run.json"):
                assert (folder / path.name).read_bytes() == path.read_bytes()
        card = (folder / "README.md").read_text()
        assert not problems(card)
        base = fields(card).get("base_model")
        assert base == (None if name.endswith("-BF16") else f"lab/{DEMO.name}-BF16")
        artifacts = sorted(f for f in folder.glob("*.gguf") if f.name != "imatrix.gguf") or [folder]
        for artifact in artifacts:
            result = sixfold("verify", str(artifact))
            assert result["passed"]
            assert result["artifact"]["files"]
            verified += 1
    assert verified == 10
    assert len(hub.repositories) == 6


def test_verified_against_its_source_by_hub_id(hub: Hub, publish: Publish, root: Path) -> None:
    """The published BF16 repository is itself a MODEL that the published FP8 one is held against."""
    assert publish("bf16", "fp8").code == 0
    name = f"lab/{DEMO.name}-FP8"
    commit = reading.resolve_commit(name, "main")
    folder = reading.download(name, commit, reading.list_files(name, commit) or {})
    with few_windows("verification.measure.held_out"):
        result = sixfold("verify", str(folder), "--against", f"lab/{DEMO.name}-BF16")
    assert result["passed"]
    assert result["weights"]["formats"]


def test_what_people_wrote_into_cards_survives(hub: Hub, publish: Publish, root: Path) -> None:
    """On the Hub into a marked place, and here as a section of its own."""
    name = f"lab/{DEMO.name}-FP8"
    assert publish("bf16", "fp8").code == 0
    card = hub.files(name)["README.md"].decode()
    mark = "<!-- yours: introduction -->\n"
    hub.repositories[name].put("README.md", card.replace(mark, f"{mark}Ask us anything.\n", 1).encode())
    here = root / f"{DEMO.name}-FP8" / "README.md"
    here.write_text(here.read_text().replace("\n## Credit\n", "\n## Who uses it\n\nWe do.\n\n## Credit\n"))
    assert "1 sent" in publish("fp8").out
    for text in (hub.files(name)["README.md"].decode(), here.read_text()):
        assert text.count(f"{mark}Ask us anything.\n") == 1
        assert text.count("## Who uses it\n\nWe do.\n") == 1
    hub.log.clear()
    assert "is current; release v1" in publish("fp8").out
