"""Large files by way of Xet, into a store on this disk that hf_xet itself writes and reads."""

import threading
from dataclasses import replace
from pathlib import Path

import hf_xet
import huggingface_hub
import pytest
from huggingface_hub import constants, hf_hub_download

from tests.publishing.conftest import TOKEN, Killed, Publish
from tests.publishing.fake_hub.state import Fault, Hub
from tests.publishing.made import MODEL, make_model, make_variant, published_files

NAME = f"lab/{MODEL}-AWQ"


@pytest.fixture
def xet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    store = tmp_path / "xet"
    store.mkdir()
    hub.xet = f"local://{store}"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    return hub


def downloaded(hub: Hub, folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """Every file of the repository, large ones out of the store. folder: whose files tell the names that Xet gives."""
    large = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf")]
    for path, found in zip(large, hf_xet.hash_files([str(path) for path in large]), strict=True):
        sha256 = next(e.sha256 for n, e in tree(hub).items() if n == path.name)
        hub.xet_hashes[sha256] = found.hash
    names = set(tree(hub)) - {".gitattributes"}
    return {name: Path(hf_hub_download(NAME, name, token=TOKEN)).read_bytes() for name in names}


def tree(hub: Hub) -> dict[str, object]:
    repository = hub.repositories[NAME]
    return dict(repository.commits[repository.branches["main"]].tree)


def test_from_upload_to_download(xet: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    assert publish().code == 0
    assert xet.requests("xet-write-token")
    assert not xet.requests("_lfs")
    assert downloaded(xet, root / f"{MODEL}-AWQ", tmp_path) == published_files(root / f"{MODEL}-AWQ")
    make_variant(root, "awq", weights="again")
    assert publish().code == 0
    assert downloaded(xet, root / f"{MODEL}-AWQ", tmp_path) == published_files(root / f"{MODEL}-AWQ")
    assert xet.repositories[NAME].history[1:] == ["v1: awq", "v2: awq"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "xet-write-token", status=503),
        Fault("GET", "xet-write-token", status=429),
        Fault("GET", "xet-write-token", drop=True),
        Fault("POST", "/commit/main", status=503),
        Fault("POST", "/commit/main", lose=True),
        Fault("POST", "/commit/main", status=412),
        Fault("POST", "/preupload/main", drop=True),
    ],
    ids=lambda fault: f"{fault.path} {fault.status or ('drop' if fault.drop else 'lose')}",
)
def test_what_passes_is_tried_again(fault: Fault, xet: Hub, publish: Publish, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    xet.break_with(fault)
    assert publish().code == 0
    assert downloaded(xet, root / f"{MODEL}-AWQ", tmp_path) == published_files(root / f"{MODEL}-AWQ")
    assert xet.repositories[NAME].history[1:] == ["v1: awq"]


def test_a_refusal_for_good_is_one_sentence(xet: Hub, publish: Publish, tmp_path: Path) -> None:
    make_model(tmp_path / "out", ("awq",))
    xet.break_with(Fault("GET", "xet-write-token", status=403, times=1000))
    printed = publish()
    assert printed.code == 1
    *waits, last = printed.err.splitlines()  # Xet tells no refusal from a connection that broke, so it is tried again
    assert last.startswith(f"sixfold: could not upload {NAME}: ")
    assert all("; trying again in " in line for line in waits)


def test_killed_and_run_again(xet: Hub, publish: Publish, killed: Killed, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out", ("awq",))
    replace(killed, xet=True).at(Fault("POST", "/commit/main", hold=threading.Event()))
    store = {path: path.stat().st_size for path in (tmp_path / "xet").rglob("*") if "xorbs/default" in str(path)}
    assert store
    huggingface_hub.close_session()
    assert publish().code == 0
    assert downloaded(xet, root / f"{MODEL}-AWQ", tmp_path) == published_files(root / f"{MODEL}-AWQ")
    assert {p: p.stat().st_size for p in (tmp_path / "xet").rglob("*") if "xorbs/default" in str(p)} == store


@pytest.mark.engines
def test_blocks_that_arrived_before_a_kill_are_not_sent_again(
    xet: Hub, publish: Publish, killed: Killed, tmp_path: Path
) -> None:
    """Blocks of Xet have 64 MiB; four files of 60 MB fill some before the last file is begun."""
    folder = make_variant(tmp_path / "out" / MODEL, "awq", shards=4, nbytes=60_000_000)

    def blocks() -> dict[Path, tuple[int, int]]:
        found = [path for path in (tmp_path / "xet").rglob("default.*") if path.suffix != ".tagset"]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    replace(killed, xet=True).when(lambda: len(blocks()) >= 3)
    before = blocks()
    assert publish().code == 0
    after = blocks()
    assert len([path for path, written in before.items() if after[path] == written]) >= len(before) - 1
    assert sum(size for _, size in after.values()) < 1.01 * 4 * 60_000_030
    assert downloaded(xet, folder, tmp_path) == published_files(folder)
