"""From private to public: at once with --public, or by --release after somebody has read the cards."""

from pathlib import Path

import pytest

from tests.publishing.conftest import Publish
from tests.publishing.fake_hub.state import Fault, Hub
from tests.publishing.made import CARD, MODEL, assert_whole, make_model, make_variant


def visibility(hub: Hub) -> set[bool]:
    """{True}: everything is private, {False}: public."""
    return {r.private for r in hub.repositories.values()} | {c["private"] for c in hub.collections.values()}


def test_private_until_released(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    assert f"publish --release --model {MODEL} --org lab --out {tmp_path / 'out'}" in publish().out
    assert visibility(hub) == {True}
    assert "private, made public" in publish("--release", "--dry-run").out
    assert visibility(hub) == {True}
    assert "Public now: 4 repositories of lab." in publish("--release", org="").out
    assert visibility(hub) == {False}
    assert publish("--release").code == 0
    assert_whole(hub, root)


def test_public_only_when_complete(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out")
    fault = Fault("PUT", "/_lfs/", status=503, times=1000)
    hub.break_with(fault)
    assert publish("--public").code == 1
    assert visibility(hub) == {True}
    hub.faults.clear()
    assert publish("--public").code == 0
    assert visibility(hub) == {False}


def test_what_is_public_stays_public(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    assert publish("--public").code == 0
    make_variant(root, "awq", weights="again")
    assert publish().code == 0
    assert visibility(hub) == {False}


@pytest.mark.parametrize("status", [429, 503])
def test_interrupted_and_done_again(status: int, hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out")
    assert publish().code == 0
    hub.break_with(Fault("PUT", "/settings", status=status, times=1000, skip=2))
    assert publish("--release").code == 1
    assert visibility(hub) == {True, False}
    hub.faults.clear()
    assert publish("--release").code == 0
    assert visibility(hub) == {False}


def test_only_what_is_there_as_it_is_here(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("bf16", "awq"))
    assert f"lab/{MODEL}-BF16 is not on the Hub; publish it first" in publish("--release").err
    assert publish().code == 0
    make_variant(root, "awq", weights="again")
    printed = publish("--release")
    assert f"lab/{MODEL}-AWQ is not what is here: CHANGELOG.md, manifest.json, model-00001" in printed.err
    assert visibility(hub) == {True}
    assert publish("--release", "bf16").code == 0
    assert [r.private for r in hub.repositories.values()] == [False, True]


def test_a_card_that_was_spoilt_in_review_is_not_released(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    repository = hub.repositories[f"lab/{MODEL}-AWQ"]
    repository.put("README.md", CARD.format(title="T").replace("license: apache-2.0\n", "").encode())
    assert "has no license" in publish("--release").err
    repository.put("README.md", CARD.format(title="Reviewed").encode())
    assert publish("--release").code == 0
    assert b"Reviewed" in hub.files(f"lab/{MODEL}-AWQ")["README.md"]
