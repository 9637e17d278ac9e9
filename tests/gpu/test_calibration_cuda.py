"""The calibration pass on a GPU measures what it measures on the CPU."""

from pathlib import Path

import pytest
import torch

from calibration import forward
from calibration.forward import observe_tokens
from calibration.observe import Observation
from sixfold.architecture import derive_architecture
from sixfold.checkpoint import open_checkpoint
from sixfold.recipe import Calibration
from sixfold.source import Source
from tests.calibration.silent import silent

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"

pytestmark = pytest.mark.gpu


def observe(device: str, monkeypatch: pytest.MonkeyPatch) -> Observation:
    monkeypatch.setattr(forward, "compute_device", lambda *sizes: torch.device(device))
    checkpoint = open_checkpoint(str(DEMO))
    source = Source(checkpoint, derive_architecture(checkpoint))
    ids = torch.randint(4, 2048, (16, 256), generator=torch.Generator().manual_seed(0))
    return observe_tokens(source, ids, Calibration(samples=16, length=256), silent)


def test_statistics_agree_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """BF16 rounds differently on the two, so routing differs for a few tokens whose scores nearly tie."""
    cpu, cuda = observe("cpu", monkeypatch), observe("cuda", monkeypatch)
    assert cpu.sites.keys() == cuda.sites.keys()
    for site in cpu.sites:
        ours, theirs = cuda.finish(site), cpu.finish(site)
        counts = (ours["count"] - theirs["count"]).abs().sum()
        assert counts <= 0.01 * theirs["count"].sum()
        for key in ("sum_sq", "sum_abs"):
            relative = (ours[key].double() - theirs[key].double()).abs().sum() / theirs[key].double().sum()
            assert relative < 0.02, (site, key, float(relative))


def test_statistics_come_back_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = observe("cuda", monkeypatch)
    tensors = [tensor for site in observation.sites for tensor in observation.finish(site).values()]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
