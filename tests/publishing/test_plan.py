"""The plan: what it says, that it does nothing, and that a person is asked."""

import json
import sys
from pathlib import Path

import click
import pytest

from publishing.publication import Publication
from tests.publishing.conftest import Publish
from tests.publishing.fake_hub.state import Account, Hub
from tests.publishing.made import CARD, MODEL, VARIANTS, assert_whole, make_model, make_variant, published_files
from tests.publishing.plain_cards import plain_card


def test_a_dry_run_tells_everything_and_does_nothing(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    printed = publish("--dry-run")
    assert printed.code == 0
    assert [line for line in hub.log if not line.startswith("GET")] == ["POST /api/validate-yaml"] * 4
    assert not hub.repositories
    assert not hub.collections
    previews = root / "publishing-cards"
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.parent != previews} == before
    for repository in ("BF16", "FP8", "AWQ", "GGUF"):
        assert f"lab/{MODEL}-{repository} (new, private)" in printed.out
        assert f"README.md, as it would be sent: {previews / f'{MODEL}-{repository}.md'}" in printed.out
    rows = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "model-00001-of-00002.safetensors new 6 kB" in rows
    assert not any(row.startswith("# tiny") for row in rows)  # cards are read in a viewer, not in a terminal
    card = (previews / f"{MODEL}-AWQ.md").read_text()
    assert "# tiny-REAP-AWQ" in card
    assert "base_model: lab/tiny-REAP-BF16" in card
    assert "run.json" not in printed.out


def test_a_dry_run_needs_no_token(hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "out")
    monkeypatch.setattr("publishing.hub.requests.get_token", lambda: None)
    printed = publish("--dry-run")
    assert printed.code == 0
    assert f"lab/{MODEL}-AWQ (new, private)" in printed.out
    assert "The Hub was not asked, as there is no token" in printed.out
    assert hub.log == []


def test_a_dry_run_says_what_a_token_may_not(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    hub.tokens[next(iter(hub.tokens))] = Account(role="read")
    printed = publish("--dry-run")
    assert printed.code == 0
    assert "This token could not publish it: the token of tester may read only" in printed.out
    assert publish().code == 1


def test_a_card_is_of_the_files_that_are_published_or_there(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One GGUF of two is published, then the other, then the first again."""
    make_model(tmp_path / "out", ("gguf-q8_0", "gguf-q4_k_m"))
    told = set()

    def card(publication: Publication, old: str) -> str:
        told.add(publication.absent)
        return plain_card(publication, old)

    monkeypatch.setattr("cli.commands.publish._card", card)
    assert publish("gguf-q8_0").code == 0
    assert told == {("gguf-q4_k_m",)}
    told.clear()
    assert publish("gguf-q4_k_m").code == publish("gguf-q8_0").code == publish("gguf-q8_0", "--release").code == 0
    assert told == {()}


def test_without_a_token_links_to_what_was_not_chosen_are_told(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "out", ("fp8", "awq"))
    monkeypatch.setattr("publishing.hub.requests.get_token", lambda: None)
    told = publish("awq", "--dry-run").out
    assert f"Made here and not among these, where cards may link to them: lab/{MODEL}-FP8" in told


def test_a_wrong_name_is_told_before_anything_else(
    hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the organization and the token, which are missing here too."""
    make_model(tmp_path / "out")
    monkeypatch.setattr("publishing.hub.requests.get_token", lambda: None)
    assert "perhaps awq is meant" in publish("aqw", org="").err
    assert hub.log == []


def test_the_plan_as_data_is_what_happens(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    planned = json.loads(publish("--dry-run", "--json").out)
    assert [repository["variants"] for repository in planned] == [
        ["bf16"],
        ["fp8"],
        ["awq"],
        ["gguf-q4_k_m", "gguf-q8_0"],
    ]
    done = json.loads(publish("--json").out)["repositories"]
    assert_whole(hub, root)
    for plan, result in zip(planned, done, strict=True):
        sizes = {file["name"]: file["bytes"] for file in plan["files"]}
        assert sizes == {name: len(data) for name, data in hub.files(plan["repository"]).items()}
        assert sorted(result["sent"]) == sorted(sizes)
        assert result["bytes_sent"] == plan["bytes_to_send"] == sum(sizes.values())
        assert (result["release"], result["is_new_release"]) == ("v1", True)
        assert hub.files(plan["repository"])["README.md"].decode() == plan["card"]


def test_new_changed_unchanged_deleted_and_kept(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    """Of three shards two are left, one of them as it was; a picture that somebody added on the web site stays."""
    root = make_model(tmp_path / "out", ("awq",), shards=3)
    assert publish().code == 0
    repository = hub.repositories[f"lab/{MODEL}-AWQ"]
    repository.put("picture.webp", b"picture")
    for shard in (root / f"{MODEL}-AWQ").glob("*.safetensors"):
        shard.unlink()
    make_variant(root, "awq", shards=2, overrides=("calibration.samples=8",))
    (plan,) = json.loads(publish("--dry-run", "--json").out)
    changes = {file["name"]: file["change"] for file in plan["files"]}
    assert {name for name, change in changes.items() if change == "new"} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert {name for name, change in changes.items() if change == "deleted"} == {
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    }
    assert changes["picture.webp"] == "kept"
    assert changes["config.json"] == changes["tokenizer.json"] == changes["LICENSE"] == "unchanged"
    assert changes["manifest.json"] == "changed"
    assert publish().code == 0
    assert hub.files(f"lab/{MODEL}-AWQ") == {**published_files(root / f"{MODEL}-AWQ"), "picture.webp": b"picture"}


def test_a_rerun_sends_nothing_and_commits_nothing(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    assert publish().code == 0
    hub.log.clear()
    printed = publish()
    assert printed.out.count("is current; release v1") == 4
    assert {line.split()[0] for line in hub.log} == {"GET", "POST"}
    assert set(hub.requests("^POST")) == {"POST /api/validate-yaml"}
    assert_whole(hub, root)


def test_a_subset_leaves_the_other_files_of_a_shared_repository_alone(
    hub: Hub, publish: Publish, tmp_path: Path
) -> None:
    root = make_model(tmp_path / "out", ("bf16", "gguf-q8_0", "gguf-q4_k_m"))
    assert publish("gguf-q8_0").code == 0
    name = f"lab/{MODEL}-GGUF"
    assert not [file for file in hub.files(name) if "Q4_K_M" in file]
    assert publish("gguf").code == 0
    assert hub.files(name) == published_files(root / f"{MODEL}-GGUF")
    for path in (root / f"{MODEL}-GGUF").glob("*Q8_0*"):
        path.unlink()
    printed = publish("gguf", "--dry-run")
    assert "On the Hub and not here, so the card no longer lists it: gguf-q8_0" in printed.out
    assert publish("gguf").code == 0
    assert f"{MODEL}-Q8_0.gguf" in hub.files(name)


def test_siblings_that_are_not_there_are_named(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("bf16", "fp8", "awq"))
    assert publish("bf16").code == 0
    line = "Made here and not on the Hub, where cards may link to them"
    assert f"{line}: lab/{MODEL}-FP8\n" in publish("awq", "--dry-run").out
    assert line not in publish("--dry-run").out


def test_what_no_manifest_lists_stays_here(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    folder = root / f"{MODEL}-AWQ"
    (folder / "notes.txt").write_text("mine")
    (folder / ".env").write_text("SECRET=1")
    (folder / "kv_cache.svg").write_text("<svg/>")
    assert "Stays here (no manifest lists it): notes.txt" in publish("--dry-run").out
    assert publish().code == 0
    assert {"notes.txt", ".env", "run.json"}.isdisjoint(hub.files(f"lab/{MODEL}-AWQ"))
    assert hub.files(f"lab/{MODEL}-AWQ")["kv_cache.svg"] == b"<svg/>"


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_person_is_asked_after_the_plan(
    answer: str, code: int, hub: Hub, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "out", ("awq",))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: click.echo(prompt) or answer)
    printed = publish(ask=True)
    assert printed.code == code
    assert printed.out.index("Plan for lab: 1 repository") < printed.out.index("Publish to lab?")
    assert len(hub.repositories) == (1 if code == 0 else 0)
    assert ("Nothing was changed." in printed.out) == (code == 1)


def test_nobody_to_ask(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    printed = publish(ask=True)
    assert printed.code == 2
    assert "publishing asks for confirmation in a terminal; give --yes, or --dry-run" in printed.err
    assert not hub.log


def test_the_bf16_repository_is_the_base_of_the_others(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    """Also where it was published before; and without it, a card says what it said."""
    make_model(tmp_path / "out", ("bf16", "awq", "fp8"))
    assert publish("fp8").code == 0
    assert hub.files(f"lab/{MODEL}-FP8")["README.md"].decode() == CARD.format(title=f"{MODEL}-FP8")
    assert publish("bf16").code == 0
    assert "base_model" not in hub.files(f"lab/{MODEL}-BF16")["README.md"].decode()
    assert publish("awq").code == 0
    card = hub.files(f"lab/{MODEL}-AWQ")["README.md"].decode()
    assert f"base_model: lab/{MODEL}-BF16\nbase_model_relation: quantized\n" in card


def test_notes_say_what_each_repository_holds(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out")
    assert publish().code == 0
    (collection,) = hub.collections.values()
    notes = {item["id"].removeprefix(f"lab/{MODEL}-"): item["note"]["text"] for item in collection["items"]}
    assert notes["BF16"].startswith("BF16, unquantized: 12")
    assert notes["GGUF"].splitlines() == [
        "Q4_K_M: 3 kB, mean KL 0.0125",
        "Q8_0: 3 kB, mean KL 0.0125",
    ]
    assert collection["private"]
    assert len(VARIANTS) == 5


def test_the_organization_and_the_only_model_are_remembered(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    assert "name the organization: --org my-lab" in publish("awq", org="").err
    assert publish("awq").code == 0
    assert "is current" in publish("awq", org="").out
    (tmp_path / "out" / "other").symlink_to(root)
    assert f"holds several models; give --model one of other, {MODEL}" in publish("awq").err
    assert "is current" in publish("awq", "--model", f"owner/{MODEL}").out
    assert "has no artifacts of absent" in publish("--model", "owner/absent").err
