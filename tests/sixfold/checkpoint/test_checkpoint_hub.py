"""Hub ids: what is requested of the Hub, what is pinned, what goes on after a break, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from sixfold.checkpoint.checkpoint import Checkpoint, open_checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from tests.checkpoints import save_model
from tests.hub_server import HubState, serve_hub, the_only_hub

REPO = "lab/tiny-pruned"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    """A repository of two shards of 2 MB with a tokenizer, a pickle and a README; an empty cache."""
    folder = tmp_path / "repository"
    shards = [{f"layers.{i}.weight": torch.randn(1000, 1000).bfloat16()} for i in range(2)]
    save_model(
        folder, shards, {"tokenizer.json": "{}", "README.md": "# tiny", "provenance.yaml": "base_model: lab/big"}
    )
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    save_file({"copy": torch.zeros(4)}, folder / "consolidated.safetensors")
    with serve_hub(REPO, folder) as state, the_only_hub(state, tmp_path / "cache", monkeypatch):
        yield state


def content(checkpoint: Checkpoint) -> str:
    """Fingerprint of the bytes on disk (that of a hub id rests on its commit)."""
    return open_checkpoint(str(checkpoint.folder)).fingerprint


def test_a_download_equals_the_repository_and_is_pinned(hub: HubState) -> None:
    local = open_checkpoint(str(hub.folder))
    checkpoint = open_checkpoint(REPO)
    assert checkpoint.name == "tiny-pruned"
    assert checkpoint.revision == "1" * 40
    assert checkpoint.provenance.base_model == "lab/big"
    assert checkpoint.tensors == local.tensors
    assert content(checkpoint) == content(local)
    for name in local.tensors:
        assert torch.equal(checkpoint.read(TensorSlice(name, 0, 1000)), local.read(TensorSlice(name, 0, 1000)))
    assert not {"pytorch_model.bin", "README.md", "consolidated.safetensors"} & set(hub.sent)


def test_a_branch_is_resolved_to_its_commit(hub: HubState) -> None:
    hub.branches["v2"] = "2" * 40
    assert open_checkpoint(REPO, revision="v2").revision == "2" * 40
    assert not any("/resolve/v2/" in line for line in hub.log)


def test_headers_only_reads_ranges(hub: HubState) -> None:
    checkpoint = open_checkpoint(REPO, headers_only=True)
    assert checkpoint.tensors == open_checkpoint(str(hub.folder)).tensors
    weights = {name for name in hub.sent if name.endswith(".safetensors")}
    assert {name for name, _ in hub.ranges} == weights == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert all(hub.sent[name] <= 1 << 17 for name in weights)  # of 2 MB each
    assert (checkpoint.folder / "tokenizer.json").is_file()
    assert checkpoint.fingerprint == open_checkpoint(REPO).fingerprint
    with pytest.raises(SixfoldError) as error:
        checkpoint.read(TensorSlice("layers.0.weight", 0, 1))
    assert str(error.value) == (
        "only the headers of lab/tiny-pruned were fetched, not layers.0.weight; download it first."
    )


def test_a_header_longer_than_the_first_range(hub: HubState) -> None:
    names = {f"{'long' * 20}.{i}": torch.full((1,), i).bfloat16() for i in range(2000)}
    for path in hub.folder.glob("model*"):
        path.unlink()
    save_model(hub.folder, [names])
    checkpoint = open_checkpoint(REPO, headers_only=True)
    assert set(checkpoint.tensors) == set(names)
    assert len(hub.ranges) == 2


def test_a_broken_connection_goes_on_where_it_broke(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.fault["model-00002-of-00002.safetensors"] = 700_000
    checkpoint = open_checkpoint(REPO)
    assert ("model-00002-of-00002.safetensors", "bytes=700000-") in hub.ranges
    assert content(checkpoint) == content(open_checkpoint(str(hub.folder)))


def test_a_download_is_silent_without_a_terminal(hub: HubState, capfd: pytest.CaptureFixture[str]) -> None:
    open_checkpoint(REPO)
    assert capfd.readouterr() == ("", "")


def test_a_rerun_fetches_only_what_is_missing(hub: HubState) -> None:
    hub.refused.add("model-00002-of-00002.safetensors")
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(REPO)
    assert str(error.value) == (
        "the Hub refused a request for lab/tiny-pruned with status 403; try again later,"
        " or log in with `hf auth login` if the model is not public."
    )
    hub.refused.clear()
    first = dict(hub.sent)
    open_checkpoint(REPO)
    assert hub.sent["model-00001-of-00002.safetensors"] == first["model-00001-of-00002.safetensors"]
    assert hub.sent["tokenizer.json"] == first["tokenizer.json"]


def test_a_killed_process_leaves_a_cache_that_the_next_completes(hub: HubState, tmp_path: Path) -> None:
    """A real process with HF_ENDPOINT, killed in the middle of the second shard."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    script = (
        "import os, huggingface_hub.file_download as f\n"
        "whole = f.http_get\n"
        "def half(url, file, **options):\n"
        "    whole(url, file, **options)\n"
        "    if '00002-of' in url:\n"
        "        file.truncate(1_000_000); file.flush(); os.kill(os.getpid(), 9)\n"
        "f.http_get = half\n"
        "from sixfold.checkpoint.checkpoint import Checkpoint, open_checkpoint\n"
        f"open_checkpoint({REPO!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert content(open_checkpoint(REPO)) == content(open_checkpoint(str(hub.folder)))


def test_offline_with_and_without_a_cached_copy(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        huggingface_hub.close_session()

    online = open_checkpoint(REPO)
    unreachable()
    again = open_checkpoint(REPO)
    assert (again.revision, again.fingerprint) == (online.revision, online.fingerprint)
    with pytest.raises(SixfoldError) as error:
        open_checkpoint("lab/never-seen")
    assert str(error.value) == (
        "there is no folder lab/never-seen, and the Hub cannot be reached to look for a model of that name;"
        " check the path, or the connection and HF_HUB_OFFLINE."
    )


def test_a_hub_that_does_not_answer(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(SixfoldError, match="and the Hub cannot be reached"):
        open_checkpoint(REPO)


def test_a_cached_copy_with_a_shard_missing_is_refused_offline(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    open_checkpoint(REPO, headers_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(REPO)
    assert str(error.value) == (
        "model.safetensors.index.json in lab/tiny-pruned names model-00001-of-00002.safetensors (and 1 more),"
        " which is not there; finish the download or copy, or remove the index if it belongs to other files."
    )


def test_a_connection_lost_for_good(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr("sixfold.checkpoint.hub.snapshot_download", lose)
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(REPO)
    assert str(error.value) == (
        "the Hub could not be reached for all of lab/tiny-pruned; check the connection and HF_HUB_OFFLINE,"
        " and run the same command again: finished files are kept."
    )


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        (
            "lab/other",
            "",
            (
                "lab/other is neither a folder here nor a model on the Hub;"
                " check the spelling, or if it is private log in with `hf auth login`."
            ),
        ),
        (REPO, "v9", "lab/tiny-pruned has no revision v9; give a branch, tag or commit that it has."),
    ],
)
def test_what_the_hub_does_not_have(hub: HubState, model: str, revision: str, message: str) -> None:
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(model, revision=revision)
    assert str(error.value) == message


def test_a_gated_model(hub: HubState) -> None:
    hub.gated = True
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(REPO)
    assert str(error.value) == (
        f"access to lab/tiny-pruned is restricted on the Hub; accept its terms on {hub.endpoint}/lab/tiny-pruned"
        " and log in with `hf auth login`."
    )


def test_a_quantized_model_is_refused_before_its_weights_are_downloaded(hub: HubState) -> None:
    (hub.folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(SixfoldError, match="is already quantized"):
        open_checkpoint(REPO)
    assert not any(name.endswith(".safetensors") for name in hub.sent)


def test_a_disk_too_small_is_told_before_the_download(hub: HubState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixfold.checkpoint.hub.free_bytes", lambda folder: 1_000_000)
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(REPO)
    assert str(error.value) == (
        f"downloading lab/tiny-pruned takes 0.0 GB more, but {constants.HF_HUB_CACHE} has 0.0 GB free;"
        " free some space or set HF_HOME to a larger disk."
    )
