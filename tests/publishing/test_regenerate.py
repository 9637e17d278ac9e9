"""One variant made and published again: its repository alone changes, and says what changed and why."""

from pathlib import Path

from tests.publishing.conftest import Publish
from tests.publishing.fake_hub.state import Hub
from tests.publishing.made import MODEL, make_model, make_variant, published_files

AWQ = f"lab/{MODEL}-AWQ"


def test_one_again(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16", "fp8", "awq"))
    assert publish().code == 0
    before = {name: dict(repository.commits) for name, repository in hub.repositories.items()}
    make_variant(root, "awq", weights="again", overrides=("calibration.samples=128", "options.grid=10"))
    printed = publish("awq", org="")
    assert "released as v2" in printed.out
    repository = hub.repositories[AWQ]
    assert repository.history[1:] == ["v1: awq", "v2: awq"]
    assert set(repository.tags) == {"v1", "v2"}
    assert repository.tags["v2"] == repository.branches["main"]
    assert hub.files(AWQ) == published_files(root / f"{MODEL}-AWQ")
    assert hub.files(AWQ, "v1") != hub.files(AWQ, "v2")
    for name, commits in before.items():
        assert name == AWQ or hub.repositories[name].commits == commits
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [f"lab/{MODEL}-{s}" for s in ("BF16", "FP8", "AWQ")]


def test_the_changelog_says_what_changed_and_why(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",), shards=3)
    assert publish().code == 0
    make_variant(root, "awq", weights="again", overrides=("calibration.samples=128",), shards=2)
    assert publish().code == 0
    changelog = hub.files(AWQ)["CHANGELOG.md"].decode()
    title, newest, oldest = changelog.split("## ")
    assert title == "# Changelog\n\n"
    assert newest.startswith("v2 (20")
    assert "- `awq` was made again: 2 files new (model-00001-of-00002.safetensors" in newest
    assert "; 3 files gone (model-00001-of-00003.safetensors" in newest
    assert "; 9.06 kB before, 6.05 kB now.\n" in newest
    assert "  - Why: `recipe.calibration.samples` was 64 and is 128.\n" in newest
    assert oldest.startswith("v1 (20")
    assert "- `awq` is new: AWQ, 4-bit integer weights" in oldest


def test_what_people_wrote_into_the_changelog_stays(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    text = hub.files(AWQ)["CHANGELOG.md"].decode()
    hub.repositories[AWQ].put("CHANGELOG.md", f"{text}\nThanks to all testers.\n".encode())
    assert "is current; release v1" in publish().out
    make_variant(root, "awq", weights="again")
    assert publish().code == 0
    changelog = hub.files(AWQ)["CHANGELOG.md"].decode()
    assert changelog.index("## v2") < changelog.index("## v1") < changelog.index("Thanks to all testers.")
    assert "Why: no input changed: the same inputs gave other bytes." in changelog


def test_a_card_alone_is_no_release(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    card = root / f"{MODEL}-AWQ" / "README.md"
    card.write_text(card.read_text() + "More.\n")
    assert "holds all files: 1 sent" in publish().out
    assert hub.files(AWQ)["README.md"] == card.read_bytes()
    assert hub.repositories[AWQ].history[1:] == ["v1: awq", "Update the card"]
    assert set(hub.repositories[AWQ].tags) == {"v1"}


def test_one_gguf_of_several(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("gguf-q8_0", "gguf-q4_k_m"))
    assert publish().code == 0
    make_variant(root, "gguf-q8_0", weights="again")
    sent = hub.put_bytes
    assert publish("gguf-q8_0").code == 0
    name = f"lab/{MODEL}-GGUF"
    assert hub.put_bytes - sent == (root / f"{MODEL}-GGUF" / f"{MODEL}-Q8_0.gguf").stat().st_size
    entry = hub.files(name)["CHANGELOG.md"].decode().split("## ")[1]
    assert "`gguf-q8_0` was made again" in entry
    assert "q4_k_m" not in entry


def test_somebody_commits_while_we_upload(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    """The commit names the one that it was planned upon, so the Hub refuses it (412); the next plan keeps both."""
    root = make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    make_variant(root, "awq", weights="again")
    repository, put = hub.repositories[AWQ], hub.object

    def interfere(sha256: str) -> Path:
        if "theirs.webp" not in repository.commits[repository.branches["main"]].tree:
            repository.put("theirs.webp", b"theirs")
        return put(sha256)

    hub.object = interfere  # type: ignore[method-assign]
    assert publish().code == 0
    assert hub.files(AWQ) == {**published_files(root / f"{MODEL}-AWQ"), "theirs.webp": b"theirs"}
    assert repository.history[1:] == ["v1: awq", "Edited by hand", "v2: awq"]


def edited(text: str, line: str) -> str:
    return text.replace("Text.\n", f"{line}\n\nText.\n")


def test_what_people_wrote_on_the_hub_comes_here(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16", "awq"))
    assert publish().code == 0
    card = hub.files(AWQ)["README.md"].decode()
    hub.repositories[AWQ].put("README.md", edited(card, "Works well on my phone.").encode())
    make_variant(root, "awq", weights="again")
    assert publish().code == 0
    assert "Works well on my phone." in hub.files(AWQ)["README.md"].decode()
    assert hub.files(AWQ) == published_files(root / f"{MODEL}-AWQ")
    make_variant(root, "awq", weights="once more")
    assert publish().code == 0
    assert hub.files(AWQ)["README.md"].decode().count("Works well on my phone.") == 1


def test_what_people_wrote_here_and_there_is_brought_together(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16", "awq"))
    assert publish().code == 0
    path = root / f"{MODEL}-AWQ" / "README.md"
    card = path.read_text()
    hub.repositories[AWQ].put("README.md", (card + "\n## Theirs\n").encode())
    path.write_text(edited(card, "Ours."))
    assert "1 sent" in publish("awq").out
    assert hub.files(AWQ)["README.md"].decode() == edited(card, "Ours.") + "\n## Theirs\n" == path.read_text()
    path.write_text(path.read_text().replace("Ours.", "Ours again."))
    assert publish("awq").code == 0
    assert hub.files(AWQ)["README.md"].decode() == edited(card, "Ours again.") + "\n## Theirs\n"


def test_on_another_machine(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    """Where nothing is known of what was sent, nothing that stands on the Hub is lost."""
    root = make_model(tmp_path / "out", ("bf16", "awq"))
    assert publish().code == 0
    card = hub.files(AWQ)["README.md"].decode()
    hub.repositories[AWQ].put("README.md", edited(card, "Written there.").encode())
    (root / "publishing.json").unlink()
    assert publish("awq").code == 0
    assert hub.files(AWQ)["README.md"].decode() == edited(card, "Written there.")
