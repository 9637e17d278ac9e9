"""A checkpoint that exists only while it is read, and files that are let go of, are what they would be on a disk."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.real_size.drawn_checkpoint import drawn_source
from benchmarks.real_size.on_disk import forget, written
from benchmarks.real_size.sink import sink
from cli.options import load_formats
from exporters.export.run import export
from sixfold.artifact.workspace import Workspace, read_json, sha256_of
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.progress import unseen

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m-REAP-6"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundled model, deeper."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(json.loads((DEMO / "config.json").read_text()) | {"num_hidden_layers": 4}))
    return path


def test_every_read_gives_the_same_weights(config: Path, tmp_path: Path) -> None:
    """By rows, as a whole, and in another process, which gets the checkpoint pickled."""
    checkpoint = drawn_source(config, tmp_path, layers=2).checkpoint
    elsewhere = pickle.loads(pickle.dumps(checkpoint))
    for name, tensor in checkpoint.tensors.items():
        whole = torch.empty(tensor.shape, dtype=torch.bfloat16)
        checkpoint.read_into(name, whole)
        middle = tensor.shape[0] // 2
        halves = [elsewhere.read(TensorSlice(name, *rows)) for rows in ((0, middle), (middle, tensor.shape[0]))]
        assert torch.equal(torch.cat(halves).bfloat16(), whole), name
    assert elsewhere.fingerprint == checkpoint.fingerprint


def test_a_deeper_checkpoint_begins_with_the_same_layers(config: Path, tmp_path: Path) -> None:
    two, four = (drawn_source(config, tmp_path / str(layers), layers=layers).checkpoint for layers in (2, 4))
    assert two.tensors.keys() < four.tensors.keys()
    for name, tensor in two.tensors.items():
        part = TensorSlice(name, 0, tensor.shape[0])
        assert torch.equal(two.read(part), four.read(part))


def test_no_two_matrices_are_the_same(config: Path, tmp_path: Path) -> None:
    checkpoint = drawn_source(config, tmp_path, layers=2).checkpoint
    experts = [name for name in checkpoint.tensors if ".experts." in name]
    first = {tuple(checkpoint.read(TensorSlice(name, 0, 1))[0, :4].tolist()) for name in experts}
    assert len(first) == len(experts)


def test_a_checkpoint_that_is_written_is_the_one_that_was_drawn(config: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    shutil.copy(DEMO / "tokenizer.json", tmp_path / "drawn")
    drawn = drawn_source(config, tmp_path / "drawn", layers=2)
    held = written(drawn, tmp_path / "written")
    forget(tmp_path)  # which loses nothing
    assert held.architecture == drawn.architecture
    assert held.checkpoint.tensors.keys() == drawn.checkpoint.tensors.keys()
    for name, tensor in drawn.checkpoint.tensors.items():
        part = TensorSlice(name, 0, tensor.shape[0])
        assert torch.equal(held.checkpoint.read(part), drawn.checkpoint.read(part))


def test_what_is_let_go_of_was_written_whole(config: Path, tmp_path: Path) -> None:
    """The manifest has the hashes of the files that are kept without a sink; what is left of one is its header."""
    source = drawn_source(config, tmp_path / "model", layers=4)
    (recipe,) = load_formats(("fp8",), ("rounding=nearest",))
    kept, gone = (Workspace(tmp_path / name, "model") for name in ("kept", "gone"))
    export(source, recipe, kept, None, threads=1, progress=unseen)
    with sink(gone.root):
        export(source, recipe, gone, None, threads=1, progress=unseen)
    first, second = (read_json(workspace.variant("FP8") / "manifest.json") for workspace in (kept, gone))
    assert first == second
    path, emptied = (workspace.variant("FP8") / "model.safetensors" for workspace in (kept, gone))
    assert sha256_of(path) == first["files"]["model.safetensors"]["sha256"] != sha256_of(emptied)
    assert emptied.stat().st_size == path.stat().st_size > 10 * 512 * emptied.stat().st_blocks
    assert read_header(emptied.parent, emptied.name).tensors == read_header(path.parent, path.name).tensors
