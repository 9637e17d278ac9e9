"""What may not be published is refused in one sentence with its remedy, before anything is made on the Hub."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sixfold.artifact.verification_record import content_digest
from sixfold.artifact.workspace import read_json, write_json
from tests.publishing.conftest import TOKEN, Printed, Publish
from tests.publishing.fake_hub.state import Account, Fault, Hub, Repository
from tests.publishing.made import CARD, MODEL, make_model, make_variant, pass_verification


@pytest.fixture
def refused(hub: Hub, publish: Publish) -> Callable[..., Printed]:
    """`publish`, which must refuse and have sent nothing."""

    def call(*arguments: str, code: int = 1, **options: str) -> Printed:
        before = dict(hub.repositories)
        printed = publish(*arguments, **options)
        assert printed.code == code, printed.err
        assert printed.err.startswith("sixfold: ")
        assert "Traceback" not in printed.err
        assert hub.repositories == before
        assert not hub.collections
        assert not [line for line in hub.log if line.startswith(("PUT", "PATCH", "DELETE"))]
        return printed

    return call


Refused = Callable[..., Printed]


def test_a_failing_gate(refused: Refused, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16", "fp8"))
    make_variant(root, "awq", failures=("mean KL 0.9 is above 0.24",))
    printed = refused(code=3)
    assert "awq cannot be published: it failed its checks: here: mean KL 0.9 is above 0.24; fix" in printed.err
    assert "awq" in refused("awq", code=3).err


def test_the_others_of_a_set_with_a_failing_one(publish: Publish, hub: Hub, tmp_path: Path) -> None:
    make_variant(make_model(tmp_path / "out", ("bf16",)), "awq", failures=("bad",))
    assert publish("bf16").code == 0
    assert list(hub.repositories) == [f"lab/{MODEL}-BF16"]


def test_not_verified_or_made_again_since(refused: Refused, tmp_path: Path) -> None:
    root = make_variant(tmp_path / "out" / MODEL, "awq", verified=False).parent
    assert "awq cannot be published: it was not verified, or was made again since; run" in refused(code=3).err
    make_variant(root, "awq")
    make_variant(root, "awq", weights="others", verified=False)
    assert "it was not verified, or was made again since" in refused(code=3).err


def test_verified_under_other_gates(refused: Refused, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    make_variant(root, "awq", overrides=("gates.max_mean_kl=0.001",), verified=False)
    assert "verified under other gates than its recipe has now" in refused(code=3).err


def test_gates_that_were_not_measured(refused: Refused, publish: Publish, tmp_path: Path) -> None:
    """As of a model that cannot be run here; without gates nothing needs to be measured."""
    root = make_model(tmp_path / "out", ("awq",))
    pass_verification(root / f"{MODEL}-AWQ", "manifest.json", measured=False)
    assert "awq cannot be published: its gates were not measured" in refused(code=3).err
    make_variant(root, "awq", overrides=("gates.max_kl_ratio=null",), verified=False)
    pass_verification(root / f"{MODEL}-AWQ", "manifest.json", measured=False)
    assert publish("--dry-run").code == 0


def test_gates_on_answers(refused: Refused, publish: Publish, tmp_path: Path) -> None:
    """Asked for and not evaluated, evaluated under other gates, failed, and held."""
    root = make_model(tmp_path / "out", ("bf16",))
    folder = make_variant(root, "awq", overrides=("gates.max_more_looping=0.02",))
    unheld = "awq cannot be published: its recipe asks for max_more_looping, and its answers were not held to that; run"
    assert unheld in refused(code=3).err
    content = content_digest(read_json(folder / "manifest.json") or {})
    found = {"artifact": {"content": content}, "gates": {"max_more_looping": 0.5}, "findings": []}
    write_json(folder / "evaluation.json", found)
    assert unheld in refused(code=3).err
    found |= {"gates": {"max_more_looping": 0.02}, "findings": ["3.6% more of its answers run in a loop"]}
    write_json(folder / "evaluation.json", found)
    assert "it failed a gate: 3.6% more of its answers run in a loop; see evaluation.json" in refused(code=3).err
    write_json(folder / "evaluation.json", found | {"findings": []})
    assert publish().code == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_dirty_manifest(damage: str, refused: Refused, tmp_path: Path) -> None:
    """The size and the time of a flipped file are those of the sound one."""
    path = make_model(tmp_path / "out", ("awq",)) / f"{MODEL}-AWQ" / "model-00002-of-00002.safetensors"
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if damage == "flip" else b""))
    printed = refused()
    assert "model-00002-of-00002.safetensors in" in printed.err
    assert "is missing or differs from manifest.json; make it again: sixfold export MODEL awq" in printed.err


def test_every_refusal_at_once(refused: Refused, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16",))
    make_variant(root, "awq", failures=("bad",))
    make_variant(root, "fp8", verified=False)
    lines = refused(code=3).err.splitlines()
    assert lines[0] == "sixfold: 2 of 3 variants cannot be published:"
    assert lines[1].startswith("  fp8: it was not verified")
    assert lines[2].startswith("  awq: it failed its checks")
    assert lines[3].startswith("fix them")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("tags: [sixfold]", "has no license"),
        ("license: other", "has no license_name"),
        ("license: other\nlicense_name: m", "has no license_link"),
        ("license: other\nlicense_name: m\nlicense_link: TERMS", "is in TERMS, and there is no such file"),
    ],
)
def test_no_license(fields: str, sentence: str, refused: Refused, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    (root / f"{MODEL}-AWQ" / "README.md").write_text(f"---\n{fields}\n---\n# T\n")
    assert sentence in refused().err


def test_a_card_that_the_hub_would_not_take(refused: Refused, hub: Hub, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    card = CARD.format(title="T").replace("tags:", "base_model: no model\ntags:")
    (root / f"{MODEL}-AWQ" / "README.md").write_text(card)
    printed = refused()
    assert f"the Hub would reject the card of lab/{MODEL}-AWQ: " in printed.err
    assert "base_model" in printed.err


@pytest.mark.parametrize(
    ("account", "org", "sentence"),
    [
        (Account(role="read"), "lab", "the token of tester may read only; make one that may write at"),
        (Account(), "nowhere", "there is no organization nowhere on the Hub; create it, or give --org one of tester"),
        (
            Account(),
            "strangers",
            "tester is not a member of strangers; ask its admins, or give --org one of tester, lab",
        ),
        (Account(orgs={"lab": "read"}), "lab", "tester has the role read in lab and may not write there"),
        (
            Account(permissions={"tester": ["repo.write", "collection.write"]}),
            "lab",
            "may not write to repositories or edit collections of lab; allow it at",
        ),
        (Account(permissions={"lab": ["repo.write"]}), "lab", "may not edit collections of lab"),
    ],
)
def test_what_the_token_may_not(
    account: Account, org: str, sentence: str, refused: Refused, hub: Hub, tmp_path: Path
) -> None:
    make_model(tmp_path / "out", ("awq",))
    hub.tokens[TOKEN] = account
    assert sentence in refused(org=org).err


@pytest.mark.parametrize(
    ("account", "org"),
    [(Account(), "tester"), (Account(permissions={"lab": ["repo.write", "collection.write"]}), "lab")],
)
def test_what_the_token_may(account: Account, org: str, publish: Publish, hub: Hub, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    hub.tokens[TOKEN] = account
    assert publish(org=org).code == 0
    assert list(hub.repositories) == [f"{org}/{MODEL}-AWQ"]


def test_no_token_and_a_wrong_one(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "out", ("awq",))
    monkeypatch.setenv("HF_TOKEN", "hf_WrongWrongWrongWrong")
    assert "401" in (printed := refused()).err
    assert "run `hf auth login`" in printed.err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("publishing.hub.requests.get_token", lambda: None)
    assert "there is no Hugging Face token on this machine" in refused().err


@pytest.mark.parametrize("content", [{"model.safetensors": b"theirs"}, {"README.md": b"# Theirs\n"}])
def test_a_name_clash(content: dict[str, bytes], refused: Refused, hub: Hub, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("bf16", "awq"))
    name = f"lab/{MODEL}-AWQ"
    hub.repositories[name] = Repository(name, private=False)
    for path, data in content.items():
        hub.repositories[name].put(path, data)
    printed = refused()
    assert f"{name} exists and holds .gitattributes, {next(iter(content))}, but no manifest of {MODEL}" in printed.err
    assert "publish under another --org" in printed.err


def test_a_repository_that_was_created_and_never_filled_is_taken(publish: Publish, hub: Hub, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    name = f"lab/{MODEL}-AWQ"
    hub.repositories[name] = Repository(name, private=True)
    hub.repositories[name].put("README.md", b"---\nlicense: mit\n---\n")
    assert publish().code == 0


def test_the_same_name_of_another_model(refused: Refused, hub: Hub, publish: Publish, tmp_path: Path) -> None:
    """A repository of ours that holds another model's variant is not this model's to change."""
    root = make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    manifest = root / f"{MODEL}-AWQ" / "manifest.json"
    hub.repositories[f"lab/{MODEL}-AWQ"].put("manifest.json", manifest.read_bytes().replace(MODEL.encode(), b"else"))
    hub.collections.clear()
    hub.log.clear()
    assert f"but no manifest of {MODEL}" in refused().err


def test_names_that_the_hub_does_not_take(refused: Refused, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    assert f"my lab/{MODEL}-AWQ is not a name that the Hub accepts" in refused(org="my lab", code=2).err
    assert "is not a name that the Hub accepts" in refused(org="x" * 100, code=2).err


def test_a_variant_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("bf16",))
    assert "holds no awq; make it with `sixfold export`, or name one of bf16" in refused("awq").err
    assert "there is no recipe 'awqq'; perhaps awq is meant" in refused("awqq", code=2).err


def test_release_and_public_say_different_things(refused: Refused, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("bf16",))
    assert "leave --public out" in refused("--release", "--public", code=2).err


@pytest.mark.parametrize("status", [403, 402])
def test_what_the_hub_refuses_is_told_in_its_words_without_the_token(
    status: int, publish: Publish, hub: Hub, tmp_path: Path
) -> None:
    make_model(tmp_path / "out", ("awq",))
    message = f"Private storage limit reached for Bearer {TOKEN} and hf_AnotherTokenAltogether"
    hub.break_with(Fault("POST", "/api/repos/create", status=status, message=message, times=100))
    printed = publish()
    assert printed.code == 1
    assert "Private storage limit reached for Bearer hf_*** and hf_***" in printed.err
    assert "check the token's permissions" in printed.err


@pytest.mark.parametrize("text", ['{"a":', "{}"])
def test_a_manifest_that_cannot_be_read(text: str, refused: Refused, tmp_path: Path) -> None:
    """Its variant must not drop out of the set without a word."""
    root = make_model(tmp_path / "out", ("bf16", "fp8"))
    (path,) = root.glob("*-FP8/manifest.json")
    path.write_text(text)
    assert f"{path} cannot be read as the manifest of a variant; make the variant again" in refused().err
