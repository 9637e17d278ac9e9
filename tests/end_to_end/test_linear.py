"""Work is proportional to the number of tensors: none of it is done for every pair of them.

Counted are calls, of Python's functions and of C's, in all threads: they are the same on any machine. Two layers more
must cost twice what one more does, and so must 16 experts more and 8.
"""

import gc
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.real_size.drawn_checkpoint import drawn_source
from exporters.export.planning import plan_all
from exporters.export.run import export
from sixfold.artifact.safetensors_layout import place
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.storage.weight_files import INDEX
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model import derivation
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import load_recipes
from verification.verify import verify

pytestmark = pytest.mark.bench

SIZES = {"layers": ((2, 24), (3, 24), (5, 24)), "experts": ((2, 16), (2, 24), (2, 40))}
"""Layers, and experts in each: the third has twice as many more than the second as the second more than the first."""
DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m-REAP-6"
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"head_dim": 16, "rotary_dim": 8, "num_local_experts": 40}
"""Of the models here: little to compute, and 450 tensors in five layers of 24 experts."""


@pytest.fixture(scope="module", params=SIZES)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints, by size, each with a weight file for every layer."""
    root = tmp_path_factory.mktemp("models")
    config = json.loads((DEMO / "config.json").read_text()) | TINY | {"num_hidden_layers": 5, "attn_type_list": [1] * 5}
    (root / "config.json").write_text(json.dumps(config))
    found = []
    for layers, experts in SIZES[request.param]:
        folder = root / f"{layers}-{experts}"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((DEMO / name).read_bytes())
        _write(drawn_source(root / "config.json", folder, layers=layers, experts=experts), folder)
        found.append(folder)
    return found


def _write(source: Source, folder: Path) -> None:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in source.checkpoint.tensors.items():
        file = f"layer-{name.split('.')[2]}.safetensors" if ".layers." in name else "other.safetensors"
        parts.setdefault(file, {})[name] = source.checkpoint.read(TensorSlice(name, 0, tensor.shape[0]))
    for file, tensors in parts.items():
        save_file(tensors, folder / file)
    index = {name: file for file, tensors in parts.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _opened(folder: Path, _out: Path) -> None:
    open_source(folder)


def _planned(folder: Path, _out: Path) -> None:
    for planned in plan_all(open_source(folder), load_recipes("all-formats")):
        assert planned.plan is not None


def _made(folder: Path, out: Path) -> None:
    """Exported, into as many files as layers, and found sound."""
    source = open_source(folder)
    (recipe,) = load_recipes("fp8", ("rounding=nearest",))
    done = export(source, recipe, Workspace(out, "model"), None, threads=1, progress=unseen)
    assert verify(done.folder, source, unseen).findings == ()


@pytest.mark.parametrize("work", [_opened, _planned, _made])
def test_twice_the_tensors_are_twice_the_calls(
    work: Callable[[Path, Path], None], folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(place.__kwdefaults__, "shard_bytes", 200_000)  # a file a layer
    work(folders[0], tmp_path / "first")  # what is imported, and kept for later calls
    small, middle, large = (_calls(work, folder, tmp_path / folder.name) for folder in folders)
    assert (large - middle) / (middle - small) < 2.05


def _calls(work: Callable[[Path, Path], None], folder: Path, out: Path) -> int:
    count = 0

    def event(_frame: object, what: str, _arg: object) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    derivation._derived.clear()  # an architecture that is known already costs no call
    gc.disable()
    threading.setprofile(event)
    sys.setprofile(event)
    try:
        work(folder, out)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        gc.enable()
    return count
