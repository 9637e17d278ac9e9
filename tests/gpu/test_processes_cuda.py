"""Two GPUs that share the batches measure what one does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calibration.forward_pass.batches import batched
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.processes import run_on_devices
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from tests.calibration.silent import silent

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")]


def test_two_gpus_measure_what_one_does(tmp_path: Path) -> None:
    source = open_source(DEMO)
    ids = torch.randint(4, 2048, (64, 256), generator=torch.Generator().manual_seed(0))
    profile = Calibration(samples=64, length=256)
    one = run_pass(
        source, batched(ids, 0), profile, tmp_path / "1", key="k", device=torch.device("cuda"), progress=silent
    )
    two = run_on_devices(
        source,
        batched(ids, 0),
        profile,
        tmp_path / "2",
        key="k",
        device="cuda",
        size=2,
        progress=silent,
        ahead=True,
    )
    assert list(one.files) == list(two.files)
    for name in one.files:
        ours, theirs = load_file(tmp_path / "2" / name), load_file(tmp_path / "1" / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            exact = not key.endswith(("sum", "sum_sq", "sum_abs", "norm_sq_sum"))
            torch.testing.assert_close(tensor, theirs[key], rtol=0 if exact else 1e-6, atol=0)
