"""What changes a file and not the model is told as such, and fails nothing."""

from pathlib import Path

import torch

from sixfold.model.source import Source
from tests.exporters.exported import silent
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import BIAS, ROUTER, tensors
from tests.verification.damage import MOE, Tensors, copy_folder
from verification.verify import verify


def _reordered(t: Tensors) -> None:
    """Layer 0: experts 1, 2, ... 7, 0, with the router and its bias."""
    moe = MOE.format(0)
    for name in (f"{ROUTER}.weight", f"{moe}e_score_correction_bias"):
        t[name] = t[name].roll(-1, 0)
    old = {name: tensor for name, tensor in t.items() if name.startswith(f"{moe}experts.")}
    for name, tensor in old.items():
        number, part = name.removeprefix(f"{moe}experts.").split(".", 1)
        t[f"{moe}experts.{(int(number) - 1) % 8}.{part}"] = tensor.clone()


def test_experts_in_another_order(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    folder = copy_folder(artifacts["fp8"], tmp_path / "reordered")
    tensors(_reordered)(folder)
    found = verify(folder, demo, silent).findings
    assert [(f.check, f.where, f.severity) for f in found] == [("weights.reordered", f"{ROUTER}.weight", "warning")]


def test_a_correction_bias_without_its_mean(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    folder = copy_folder(artifacts["fp8"], tmp_path / "shifted")
    tensors(lambda t: t[BIAS].sub_(t[BIAS].mean()))(folder)
    found = verify(folder, demo, silent).findings
    assert [(f.check, f.where, f.severity) for f in found] == [("weights.shifted", BIAS, "warning")]
    tensors(lambda t: t[BIAS].add_(torch.arange(8) / 100))(folder)
    assert BIAS in {f.where for f in verify(folder, demo, silent).failures}
