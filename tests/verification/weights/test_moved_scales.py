"""AWQ moves scales between norms and Linears: an artifact with its record is held to it, others to what cancels."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sixfold.model.source import Source
from tests.exporters.exported import silent
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import tensors
from tests.verification.damage import EXPERT, LAYER, MOE, Tensors, copy_folder
from verification.verify import verify

NORM = LAYER.format(1) + "post_attention_layernorm.weight"
GATE = MOE.format(1) + "gate.weight"
W1, W2, W3 = (EXPERT.format(1, 3, part) for part in ("w1", "w2", "w3"))
V = LAYER.format(0) + "self_attn.v_proj."
ALL = slice(None)


def part(name: str, columns: slice, factor: float, rows: slice = ALL) -> Callable[[Tensors], object]:
    return lambda t: t[name][columns].mul_(factor) if t[name].dim() == 1 else t[name][rows, columns].mul_(factor)


DAMAGES = {
    "one channel of a norm": (NORM, part(NORM, slice(5, 6), 1.1)),
    "a norm three hundredths off": (NORM, part(NORM, ALL, 1.03)),
    "half of an up projection's rows": (W3, part(W3 + "scales", slice(0, 128), 1.2)),
    "a group of a down projection": (W2, part(W2 + "scales", ALL, 1.15, slice(0, 1))),
    "rows of a down projection": (W2, part(W2 + "scales", slice(0, 8), 1.5)),
    "all of the values": (V, part(V + "scales", ALL, 3.0)),
}


@pytest.fixture
def damaged(artifacts: Artifacts, tmp_path: Path) -> Path:
    """A copy to damage, beside the record of its scales."""
    (tmp_path / "calibration").symlink_to(artifacts["awq"].parent / "calibration")
    return copy_folder(artifacts["awq"], tmp_path / "copy")


def named(path: Path, source: Source) -> list[str]:
    return [f.where for f in verify(path, source, silent).failures if f.where != "model.safetensors"]


@pytest.mark.parametrize("name", DAMAGES)
def test_what_does_not_cancel_is_named(name: str, damaged: Path, artifacts: Artifacts, demo: Source) -> None:
    where, change = DAMAGES[name]
    tensors(change)(damaged)
    assert {where in found for found in named(damaged, demo)} == {True}
    shutil.copy(artifacts["awq"] / "manifest.json", damaged)
    assert set(named(damaged, demo)) == {where if where == NORM else f"{where}weight"}


def test_scales_moved_otherwise_than_recorded(damaged: Path, artifacts: Artifacts, demo: Source) -> None:
    """The same model, and yet not what was exported: every tensor that was touched is named, and no other."""
    readers = [EXPERT.format(1, n, w) for n in range(8) for w in ("w1", "w3")]

    def move(t: Tensors) -> None:
        for name in (GATE, *(reader + "scales" for reader in readers)):
            t[name] *= 2
        t[NORM] /= 2

    tensors(move)(damaged)
    assert named(damaged, demo) == []
    shutil.copy(artifacts["awq"] / "manifest.json", damaged)
    assert set(named(damaged, demo)) == {GATE, NORM, *(reader + "weight" for reader in readers)}


def test_a_record_that_changed_is_not_believed(damaged: Path, artifacts: Artifacts, demo: Source) -> None:
    shutil.copy(artifacts["awq"] / "manifest.json", damaged)
    calibration = damaged.parent / "calibration"
    calibration.unlink()
    shutil.copytree(artifacts["awq"].parent / "calibration" / "decisions", calibration / "decisions")
    record = calibration / "decisions" / "awq" / "layer-00000.safetensors"
    record.write_bytes(record.read_bytes()[:-4] + torch.ones(1).numpy().tobytes())
    assert verify(damaged, demo, silent).findings == ()
