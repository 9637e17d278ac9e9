"""Several formats of one walk: the bytes of each alone, from one read of the source, and none at another's cost."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters.export import run as run_module
from exporters.export.planning import plan_of
from exporters.export.run import Exported, Wanted, export, export_all
from exporters.fp8 import EXPORTER as FP8
from exporters.registry import exporter_named
from sixfold.artifact.streaming import stream, walk
from sixfold.artifact.streaming.pieces import Pieces
from sixfold.artifact.streaming.writing import Work, Writing, one_by_one, singly
from sixfold.artifact.workspace import PARTIAL, Workspace
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Recipe, load_recipes
from tests.exporters.export.counted_reads import counted_reads
from tests.exporters.exported import DEMO, silent
from tests.families import make_family

NAMES = ("bf16", "fp8", "nvfp4", "gguf-q8_0")


def model(family: str, folder: Path, **changes: int) -> Path:
    """Random weights, with the tokenizer that a GGUF holds."""
    made = make_family(family, folder, vocab_size=2048, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, made / name)
    return made


def recipes(names: tuple[str, ...] = NAMES) -> list[Recipe]:
    return [recipe for name in names for recipe in load_recipes(name, ["rounding=nearest"])]


def together(
    source: Source, root: Path, names: tuple[str, ...] = NAMES, **limits: object
) -> list[Exported | Exception]:
    wanted = [Wanted(recipe, None) for recipe in recipes(names)]
    workspace = Workspace(root, source.checkpoint.name)
    return export_all(source, wanted, workspace, threads=2, progress=silent, **limits)  # type: ignore[arg-type]


def files(result: Exported | Exception) -> dict[str, dict[str, object]]:
    assert isinstance(result, Exported), result
    return json.loads((result.folder / result.manifest).read_text())["files"]


def alone(source: Source, root: Path, names: tuple[str, ...] = NAMES) -> list[dict[str, dict[str, object]]]:
    workspace = Workspace(root, source.checkpoint.name)
    return [files(export(source, r, workspace, None, threads=1, progress=silent)) for r in recipes(names)]


@pytest.mark.parametrize(
    ("family", "names"),
    [("qwen3_moe", NAMES), ("gpt_oss", ("bf16", "fp8", "nvfp4"))],
    ids=["one tensor an expert", "experts in one array"],
)
def test_the_source_is_read_once_and_each_format_has_the_bytes_that_it_has_alone(
    family: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(model(family, tmp_path / family))
    with counted_reads(monkeypatch) as counts:
        made = together(source, tmp_path / "together", names)
    assert sum(counts) == sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    assert [files(result) for result in made] == alone(source, tmp_path / "alone", names)
    ran = [json.loads((done.folder / "run.json").read_text()) for done in made[:3] if isinstance(done, Exported)]
    assert {run["walk"]["read_bytes"] for run in ran} == {sum(counts)}
    assert all(run["walk"]["formats"] == list(names) for run in ran)


def test_what_one_format_does_to_shared_weights_no_other_sees(tmp_path: Path) -> None:
    """Of a float32 source: there a cast to float32 is the tensor itself."""
    folder = model("qwen3_moe", tmp_path / "tiny")
    path = folder / "model.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    source = open_source(folder)
    made = together(source, tmp_path / "together")
    assert [files(result) for result in made] == alone(source, tmp_path / "alone")


def test_a_format_that_fails_midway_costs_no_other_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(model("qwen3_moe", tmp_path / "tiny"))
    encode, calls = type(FP8).encode, 0

    def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise SixfoldError("no such luck", "try again")
        return encode(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(FP8), "encode", failing)
        made = together(source, tmp_path / "out")
    assert [type(result).__name__ for result in made] == ["Exported", "SixfoldError", "Exported", "Exported"]
    assert "no such luck" in str(made[1])
    again = together(source, tmp_path / "out")
    assert [isinstance(result, Exported) and result.skipped for result in again] == [True, False, True, True]
    assert [files(result) for result in again] == alone(source, tmp_path / "alone")
    assert not list((tmp_path / "out").rglob(PARTIAL))


def test_a_format_that_is_busy_elsewhere_costs_no_other(tmp_path: Path) -> None:
    source = open_source(model("qwen3_moe", tmp_path / "tiny"))
    folder = Workspace(tmp_path / "out", "tiny").variant("FP8")
    with run_module.locked(folder / PARTIAL, "fp8"):
        made = together(source, tmp_path / "out")
    assert [type(result).__name__ for result in made] == ["Exported", "SixfoldError", "Exported", "Exported"]
    assert "another process is exporting fp8" in str(made[1])


def test_too_little_memory_for_all_takes_them_in_groups_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/sixfold/artifact/streaming has when that is."""
    source = open_source(model("qwen3_moe", tmp_path / "tiny"))
    said: list[str] = []
    monkeypatch.setattr(stream, "_groups", lambda works, *limits: [[work] for work in works])
    with counted_reads(monkeypatch) as counts:
        made = together(source, tmp_path / "out", ("bf16", "fp8"), memory=1, say=said.append)
    assert said == [
        "memory does not suffice for all formats at once, so the checkpoint is read 2 times: bf16; fp8",
    ]
    assert sum(counts) == 2 * sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())
    assert [files(result) for result in made] == alone(source, tmp_path / "alone", ("bf16", "fp8"))


@pytest.mark.parametrize("names", [("nvfp4",), NAMES], ids=["one", "several"])
def test_memory_is_flat_in_the_number_of_layers(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held of the source at once, which is all that could grow: with no reading ahead, and counted by torch."""
    monkeypatch.setattr(stream, "AHEAD", 0)
    most = {}
    for layers in (2, 8):
        folder = model("qwen3_moe", tmp_path / f"{layers}", num_hidden_layers=layers)
        source = open_source(folder)
        with held_at_most(monkeypatch) as held:
            together(source, tmp_path / f"out-{layers}", names)
        most[layers] = held[0]
        total = sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())
    assert 0 < most[8] == most[2] < total / 8


@contextmanager
def held_at_most(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The most bytes of pieces whose tensors are referenced by the walk at any time."""
    pieces: list[walk.Piece] = []
    most = [0]
    fetch = walk.Walk._fetch

    def watching(self: walk.Walk, piece: walk.Piece) -> None:
        fetch(self, piece)
        pieces.append(piece)
        held: list[torch.Tensor] = [p.tensor for p in pieces if p.tensor is not None]
        most[0] = max(most[0], sum(tensor.nbytes for tensor in held))

    with monkeypatch.context() as patch:
        patch.setattr(walk.Walk, "_fetch", watching)
        yield most


def test_ten_formats_hold_no_more_of_eight_layers_than_of_two(tmp_path: Path) -> None:
    """AWQ's search holds a layer, and the others no more than what they are rounding."""
    held = {}
    for layers in (2, 8):
        source = open_source(model("qwen3_moe", tmp_path / f"{layers}", num_hidden_layers=layers))
        writings = []
        for recipe in recipes(("all-formats",)):
            exporter = exporter_named(recipe.exporter)
            searched = getattr(exporter, "searched", lambda source, recipe, layer: ())
            reads = {layer: searched(source, recipe, layer) for layer in range(layers)}
            plan = plan_of(source, recipe, None)
            assert plan is not None
            writing = Writing(plan, tmp_path / f"{recipe.name}-{layers}", "k", singly, one_by_one(FP8.encode))
            writings.append(replace(writing, searched=reads))
        assert len(writings) == 10
        pieces = Pieces(source.checkpoint, stream._read_together(writings))
        held[layers] = walk.most_held(stream._in_order([Work(w, pieces, lambda n: None) for w in writings], pieces))
        tensors = source.checkpoint.tensors
        layer = sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("model.layers.0."))
    assert layer / 2 < held[8] == held[2] < layer + max(tensor.nbytes for tensor in tensors.values())
