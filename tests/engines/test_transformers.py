"""transformers loads our folders, and computes from them what our reader reads.

BF16 and dense FP8 and W4A16 agree but for the order of sums. Of FP8 experts transformers rounds the dequantized weights
to BF16, and their inputs not at all; AWQ runs through gptqmodel, whose kernel for CPUs multiplies in float16.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.texts.held_out_text import held_out
from tests.engines.dense_model import dense_model
from tests.engines.gptqmodel_packages import gptqmodel
from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.reader import divergence, reader_logits
from tests.exporters.exported import DEMO
from tests.verification.artifacts import Artifacts, make_all

pytestmark = pytest.mark.engines

SCRIPT = Path(__file__).parent / "transformers_logits.py"
LENGTH, WINDOWS = 256, 4
RECIPES = ("bf16", "fp8", "awq", "awq-packed")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Artifacts]:
    folder = tmp_path_factory.mktemp("dense")
    return open_source(dense_model(folder / "model")), make_all(folder / "model", folder, RECIPES)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Artifacts]:
    return open_source(DEMO), make_all(DEMO, tmp_path_factory.mktemp("experts"), ("bf16", "fp8"))


def ids() -> torch.Tensor:
    return torch.stack([window[:LENGTH] for window in held_out(load_tokenizer(DEMO)).ids[:WINDOWS]])


def transformers_logits(
    folder: Path, tmp_path: Path, dtype: str = "float32", extra: Path | None = None
) -> torch.Tensor:
    """extra: a folder of more packages."""
    np.save(tmp_path / "ids.npy", ids().numpy())
    command = [sys.executable, SCRIPT, folder, tmp_path / "ids.npy", tmp_path / "logits.npy", dtype]
    environment = {**os.environ, **({"PYTHONPATH": str(extra)} if extra else {})}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.from_numpy(np.load(tmp_path / "logits.npy"))


@pytest.mark.parametrize("recipe", ["bf16", "fp8", "awq-packed"])
def test_dense_folders(recipe: str, dense: tuple[Source, Artifacts], tmp_path: Path) -> None:
    source, artifacts = dense
    theirs = transformers_logits(artifacts[recipe], tmp_path)
    ours = reader_logits(artifacts[recipe], source, ids(), "engine" if recipe == "fp8" else "weights")
    assert _distance("dense", recipe, source, ours, theirs) < 1e-6


@pytest.mark.parametrize("recipe", ["bf16", "fp8"])
def test_folders_with_experts(recipe: str, experts: tuple[Source, Artifacts], tmp_path: Path) -> None:
    """transformers 5.17 knows no zero points of experts, and says so as it loads W4A16."""
    source, artifacts = experts
    theirs = transformers_logits(artifacts[recipe], tmp_path)
    run = "engine" if recipe == "fp8" else "weights"
    ours = reader_logits(artifacts[recipe], source, ids(), run, exact=".experts.")
    assert _distance("experts", recipe, source, ours, theirs) < {"bf16": 1e-6, "fp8": 2e-3}[recipe]


def test_awq_through_gptqmodel(dense: tuple[Source, Artifacts], tmp_path: Path) -> None:
    try:
        packages = gptqmodel()
    except Unavailable as reason:
        pytest.skip(str(reason))
    source, artifacts = dense
    theirs = transformers_logits(artifacts["awq"], tmp_path, extra=packages)
    ours = reader_logits(artifacts["awq"], source, ids())
    assert _distance("dense", "awq", source, ours, theirs) < 1e-3


def _distance(model: str, recipe: str, source: Source, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean KL of transformers' logits from ours; printed beside that of ours from the source's."""
    original = reader_logits(source.checkpoint.folder, source, ids())
    found = divergence(ours, theirs)
    line = f"{model:8} {recipe:11} transformers from our reader {found:.1e}, our reader from the source"
    sys.stdout.write(f"{line} {divergence(original, ours):.1e}\n")
    return found
