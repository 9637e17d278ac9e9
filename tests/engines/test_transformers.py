"""transformers loads our folders, and computes from them what our reader reads.

BF16 and dense FP8 agree but for the order of sums. transformers rounds the weights of experts to BF16 as it dequantizes
them, and their inputs not at all; AWQ runs through gptqmodel, in float16 or BF16 where it has no other kernel: there
the reader's logits must be far closer to transformers' than to the source's.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sixfold.source import Source
from tests.engines.dense_model import dense_model
from tests.engines.gptqmodel import gptqmodel
from tests.engines.llama_cpp_tools import Unavailable
from tests.engines.reader import divergence, reader_logits
from tests.exporters.exported import DEMO, open_source
from tests.verification.artifacts import Artifacts, make_all
from verification.heldout import held_out

pytestmark = pytest.mark.engines

SCRIPT = Path(__file__).parent / "transformers_logits.py"
LENGTH, WINDOWS = 256, 4
RECIPES = ("bf16", "fp8", "fp8-block", "nvfp4", "awq", "awq-packed")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Artifacts]:
    folder = tmp_path_factory.mktemp("dense")
    return open_source(dense_model(folder / "model")), make_all(folder / "model", folder, RECIPES)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Artifacts]:
    return open_source(DEMO), make_all(DEMO, tmp_path_factory.mktemp("experts"), RECIPES)


def ids() -> torch.Tensor:
    return torch.stack([window[:LENGTH] for window in held_out(DEMO).ids[:WINDOWS]])


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


def report(name: str, found: float, distance: float) -> None:
    sys.stdout.write(
        f"{name:24} KL of transformers from our reader {found:.2e}, of our reader from the source {distance:.2e}\n"
    )


@pytest.mark.parametrize("recipe", ["bf16", "fp8", "awq-packed"])
@pytest.mark.parametrize("model", ["dense", "experts"])
def test_folders_that_transformers_loads_itself(
    model: str, recipe: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, artifacts = request.getfixturevalue(model)
    theirs = transformers_logits(artifacts[recipe], tmp_path)
    ours = {run: reader_logits(artifacts[recipe], source, ids(), run) for run in ("weights", "engine")}
    print(model, recipe, {run: divergence(logits, theirs) for run, logits in ours.items()})


def test_awq_through_gptqmodel(dense: tuple[Source, Artifacts], tmp_path: Path) -> None:
    try:
        packages = gptqmodel()
    except Unavailable as reason:
        pytest.skip(str(reason))
    source, artifacts = dense
    theirs = transformers_logits(artifacts["awq"], tmp_path, extra=packages)
    ours = reader_logits(artifacts["awq"], source, ids())
    print(divergence(ours, theirs))
