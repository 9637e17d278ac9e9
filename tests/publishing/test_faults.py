"""Whatever goes wrong on the way: what the Hub holds afterwards is whole, and nothing is there twice."""

import threading
from pathlib import Path

import pytest

from tests.publishing.conftest import Killed, Publish
from tests.publishing.fake_hub.state import Fault, Hub
from tests.publishing.made import MODEL, assert_whole, make_model

SMALL = ("bf16", "gguf-q8_0", "gguf-q4_k_m")
REQUESTS = {
    "account": ("GET", "/api/whoami-v2"),
    "look": ("GET", f"/api/models/lab/{MODEL}-BF16$"),
    "references": ("GET", "/refs$"),
    "create": ("POST", "/api/repos/create"),
    "validate": ("POST", "/api/validate-yaml"),
    "preupload": ("POST", "/preupload/main"),
    "batch": ("POST", "/objects/batch"),
    "put": ("PUT", "/_lfs/"),
    "verify": ("POST", "/_lfs/.*/verify"),
    "commit": ("POST", "/commit/main"),
    "list": ("GET", "/tree/"),
    "tag": ("POST", "/tag/"),
    "collections": ("GET", "/api/collections$"),
    "collection": ("POST", "/api/collections$"),
    "item": ("POST", "/items$"),
}


EVERYWHERE = [(name, kind) for name in REQUESTS for kind in ("503", "lose")]
"""What is lost may have been done, which is another matter for each request; a limit of the rate or a connection that
ends is answered by the same code for all: of the account, of the uploads and of the repository."""
IN_SOME_PLACES = [(name, kind) for name in ("account", "put", "commit") for kind in ("429", "drop")]


@pytest.mark.parametrize(("request_name", "kind"), EVERYWHERE + IN_SOME_PLACES)
def test_what_passes_is_tried_again(request_name: str, kind: str, hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", SMALL)
    method, path = REQUESTS[request_name]
    bad = {"drop": {"drop": True}, "lose": {"lose": True}}.get(kind) or {"status": int(kind)}
    fault = Fault(method, path, headers={"Retry-After": "2"} if kind == "429" else {}, **bad)
    hub.break_with(fault)
    printed = publish()
    assert printed.code == 0, printed.err
    assert fault.times == 0
    assert_whole(hub, root)


@pytest.mark.parametrize("status", [409, 412])
@pytest.mark.parametrize("request_name", ["create", "commit", "tag", "collection", "item"])
def test_a_conflict_is_looked_at_anew(
    status: int, request_name: str, hub: Hub, publish: Publish, tmp_path: Path
) -> None:
    root = make_model(tmp_path / "out", SMALL)
    hub.break_with(Fault(*REQUESTS[request_name], status=status))
    assert publish().code == 0
    assert_whole(hub, root)


@pytest.mark.parametrize("request_name", ["account", "create", "put", "commit", "tag", "item"])
def test_what_lasts_ends_in_one_sentence_and_a_rerun_ends_whole(
    request_name: str, hub: Hub, publish: Publish, tmp_path: Path
) -> None:
    root = make_model(tmp_path / "out", SMALL)
    fault = Fault(*REQUESTS[request_name], status=503, times=1000)
    hub.break_with(fault)
    printed = publish()
    assert printed.code == 1
    *waits, last = printed.err.splitlines()
    assert waits
    assert all("status 503" in line and "; trying again in " in line for line in waits), waits
    assert "503" in last
    assert "run the same command again" in last
    hub.faults.clear()
    assert publish().code == 0
    assert_whole(hub, root)


def test_large_files_in_parts(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", SMALL)
    hub.part_bytes = 1000
    hub.break_with(Fault("PUT", r"_lfs/[0-9a-f]*/2$", status=503), Fault("POST", "/complete", drop=True))
    assert publish().code == 0
    assert_whole(hub, root)
    assert not list(hub.folder.glob("*.0000*"))


@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize("path", ["/_lfs/", "/commit/main"])
def test_bytes_damaged_on_the_way_are_noticed_and_sent_again(
    path: str, trusting: bool, hub: Hub, publish: Publish, tmp_path: Path
) -> None:
    """By the Hub's own look at the sha256, or where it takes what comes, by the checksums that it lists afterwards."""
    root = make_model(tmp_path / "out", ("bf16",))
    hub.trusting = trusting
    hub.break_with(Fault("PUT" if "lfs" in path else "POST", path, corrupt=True))
    assert publish().code == 0
    for name, data in hub.files(f"lab/{MODEL}-BF16").items():
        assert data == (root / f"{MODEL}-BF16" / name).read_bytes()


def test_an_upload_that_is_never_right_is_not_called_done(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("bf16",))
    hub.trusting = True
    hub.break_with(Fault("PUT", "/_lfs/", corrupt=True, times=1000))
    printed = publish()
    assert printed.code == 1
    assert "model-00001-of-00002.safetensors" in printed.err
    assert "did not arrive unchanged" in printed.err
    assert not hub.repositories[f"lab/{MODEL}-BF16"].tags


@pytest.mark.parametrize(
    ("method", "path", "skip"),
    [
        ("PUT", "/_lfs/", 2),
        ("POST", "/commit/main", 1),
        ("POST", "/tag/", 0),
        ("POST", "/items$", 1),
    ],
    ids=["large file", "commit", "tag", "collection"],
)
def test_killed_and_run_again(
    method: str, path: str, skip: int, hub: Hub, publish: Publish, killed: Killed, tmp_path: Path
) -> None:
    """Whatever had arrived is not sent again; only the file that was on its way is."""
    root = make_model(tmp_path / "out", SMALL)
    killed.at(Fault(method, path, hold=threading.Event(), skip=skip))
    assert publish().code == 0
    assert_whole(hub, root)
    large = [p for p in root.rglob("*") if p.suffix in (".gguf", ".safetensors")]
    assert hub.put_bytes == sum(p.stat().st_size for p in large)


def test_a_collection_that_was_interrupted_keeps_what_others_put_in(hub: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    hub.break_with(Fault("POST", "/items$", status=500, times=1000, skip=2))
    assert publish().code == 1
    (collection,) = hub.collections.values()
    assert len(collection["items"]) == 2
    foreign = {"_id": "foreign", "id": "other/model", "type": "model", "note": {"text": "theirs"}}
    collection["items"].insert(0, foreign)
    hub.faults.clear()
    assert publish().code == 0
    assert collection["items"].pop() == foreign
    assert_whole(hub, root)
