"""What a person wrote into a card is still there when the card is rendered again."""

from pathlib import Path

import pytest

from cards.facts.model_facts import read_model
from cards.facts.origins import wrong_figures
from cards.model_card.card import BEFORE, Written, card_of, write_card
from cards.model_card.front_matter import fields, problems
from tests.cards.model_folder import PROVENANCE, manifest, put, source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an artifact that has its card."""
    source(tmp_path / "Tiny", **PROVENANCE)
    folder = put(tmp_path / "Tiny", manifest("FP8"))
    render(folder)
    return folder


def render(folder: Path) -> Written:
    return write_card(folder, card_of(read_model(folder.parent), folder))


def edit(folder: Path, old: str, new: str) -> str:
    """Edit the card by hand; returns what it is then."""
    path = folder / "README.md"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path.read_text()


def test_what_stands_in_a_place_for_it_stays(folder: Path) -> None:
    edit(folder, "<!-- yours: notes -->\n", "<!-- yours: notes -->\n## Thanks\n\nTo all 7 of you.\n")
    assert render(folder) == Written(folder, False, (), (), "")
    put(folder.parent, manifest("FP8", files={"model.safetensors": 42}))
    assert render(folder) == Written(folder, True, (), (), "")
    text = (folder / "README.md").read_text()
    assert "| Size | 42 B |" in text
    assert "<!-- yours: notes -->\n## Thanks\n\nTo all 7 of you.\n\n<!-- /yours -->" in text
    assert wrong_figures(text, folder) == ()


def test_a_place_of_ones_own_stays_in_its_section(folder: Path) -> None:
    own = "<!-- yours: speed -->\nIt is fast.\n<!-- /yours -->\n"
    edit(folder, "## Checksums\n", f"{own}\n## Checksums\n")
    edit(folder, "# Tiny-FP8\n", f"# Tiny-FP8\n\n{own.replace('speed', 'logo')}")
    assert render(folder).lost == ()
    text = (folder / "README.md").read_text()
    assert text.count("It is fast.") == 2
    assert text.index("yours: logo") < text.index("## How to run it") < text.index("yours: speed")
    assert text.index("yours: speed") < text.index("## Checksums")


@pytest.mark.parametrize("before", ["## Checksums\n", "## Credit\n", "<!-- yours: notes -->\n"])
def test_a_section_of_ones_own_stays_where_it_is(before: str, folder: Path) -> None:
    edited = edit(folder, before, f"## My 2 cents\n\n```\n## no heading\n```\n\n{before}")
    assert render(folder).lost == ()
    assert (folder / "README.md").read_text() == edited


def test_a_section_at_the_end_stays(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text() + "\n## Mine\n\nText.\n")
    assert render(folder).lost == ()
    assert "## Mine\n\nText.\n" in path.read_text()
    assert not render(folder).changed


def test_fields_and_tags_of_ones_own_stay(folder: Path) -> None:
    edit(folder, "tags:\n", "new_version: lab/Tiny2\ntags:\n- chat\n")
    render(folder)
    found = fields((folder / "README.md").read_text())
    assert found["new_version"] == "lab/Tiny2"
    assert found["tags"] == ["fp8_dynamic", "sixfold", "chat"]


def test_a_tag_that_no_longer_holds_goes(folder: Path) -> None:
    changed = manifest("FP8")
    changed["recipe"]["scheme"] = "FP8_BLOCK"
    put(folder.parent, changed)
    render(folder)
    assert fields((folder / "README.md").read_text())["tags"] == ["fp8_block", "sixfold"]


def test_a_rendered_field_is_rendered_again(folder: Path) -> None:
    edit(folder, "license_name: their-license", "license_name: mine")
    render(folder)
    assert fields((folder / "README.md").read_text())["license_name"] == "their-license"


def test_a_field_that_the_hub_refuses_is_reported(folder: Path) -> None:
    edit(folder, "tags:\n", "language: [english]\ndatasets: x\nmodel_name: 5\ntags:\n")
    assert problems((folder / "README.md").read_text())
    assert render(folder).problems == ("model_name is 5, which is not text",)


def test_a_change_that_does_not_last_is_kept_beside(folder: Path) -> None:
    edited = edit(folder, "| Size | 1.23 GB |", "| Size | tiny |")
    assert render(folder).lost == ("the introduction",)
    assert (folder / BEFORE).read_text() == edited
    assert "| Size | 1.23 GB |" in (folder / "README.md").read_text()
    assert not render(folder).changed


def test_a_section_that_was_removed_is_told(folder: Path) -> None:
    path = folder / "README.md"
    text = path.read_text()
    start, end = text.index("## Checksums"), text.index("## Credit")
    path.write_text(text[:start] + text[end:])
    assert render(folder).lost == ("Checksums",)


def test_a_card_from_elsewhere_is_kept_beside(folder: Path) -> None:
    (folder / "README.md").write_text("# By hand\n")
    assert render(folder).lost == ("all of it",)
    assert (folder / BEFORE).read_text() == "# By hand\n"


def test_what_was_kept_beside_stays_when_another_card_is_kept(folder: Path) -> None:
    for text in ("# By hand\n", "# By another hand\n", "# By hand\n"):
        (folder / "README.md").write_text(text)
        render(folder)
    assert (folder / BEFORE).read_text() == "# By hand\n"
    assert (folder / "README.before-2.md").read_text() == "# By another hand\n"
    assert len(list(folder.glob("README.before*.md"))) == 2


def test_a_card_that_is_no_text_is_kept_byte_for_byte(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"\xff\xfe bad")
    assert render(folder).lost == ("all of it",)
    assert (folder / BEFORE).read_bytes() == b"\xff\xfe bad"
