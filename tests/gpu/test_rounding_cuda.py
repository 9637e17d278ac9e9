"""Rounding with compensation on a GPU: its kernels against the steps that a processor makes, and exports by it."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.compensated import quantize_compensated
from exporters.ggml.kernels import quantize
from exporters.gguf import _quantized
from exporters.rounding import compensate as steps
from exporters.rounding.compensate import compensate, round_group
from exporters.rounding.factor import Factor, factor
from exporters.rounding.format import Format
from tests.exporters.rounding.test_compensate import FORMATS, correlated, output_error

pytestmark = pytest.mark.gpu

EXPERTS, ROWS, COLUMNS = 3, 80, 512


@pytest.fixture(scope="module")
def known() -> Factor:
    return factor(torch.stack([correlated(COLUMNS, seed) for seed in range(EXPERTS)]))


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return torch.randn(EXPERTS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(7)) * 0.02


def on_gpu(known: Factor) -> Factor:
    return Factor(known.moments.cuda(), known.upper.cuda())


def form_on(name: str, device: str) -> Format:
    """NVFP4 holds a scale for each weight, on the weights' device."""
    form = FORMATS[name]
    if name == "nvfp4":
        return type(form)(torch.full((EXPERTS,), 2688 / 0.08, device=device))  # type: ignore[call-arg]
    return form


@pytest.mark.parametrize("name", FORMATS)
def test_a_group_is_rounded_as_by_single_steps(name: str, known: Factor, weights: torch.Tensor) -> None:
    left, size = weights.mT.contiguous(), FORMATS[name].group
    found = []
    for device in ("cpu", "cuda"):
        form, part = form_on(name, device), left[:, :size].to(device)
        ones = torch.ones(EXPERTS, COLUMNS, device=device)
        opened = form.open(left[:, : form.span or COLUMNS].to(device), ones[:, : form.span or COLUMNS])
        tried = form.candidates(part, ones[:, :size], opened, 0)
        found.append([made.cpu() for made in round_group(part, known.upper[:, :size, :size].to(device), form, tried)])
    for on_cpu, made in zip(*found, strict=True):
        assert float((on_cpu - made).abs().gt(1e-5 * on_cpu.abs().max()).float().mean()) < 0.01  # ties


@pytest.mark.parametrize("name", FORMATS)
def test_a_gpu_leaves_the_error_that_a_processor_leaves(name: str, known: Factor, weights: torch.Tensor) -> None:
    on_cpu = compensate(weights, known, form_on(name, "cpu")).values
    made = compensate(weights.cuda(), on_gpu(known), form_on(name, "cuda")).values.cpu()
    errors = [float(output_error(weights, values, known.moments).sum()) for values in (on_cpu, made)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


def test_without_kernels_the_same_steps_are_made_one_by_one(
    known: Factor, weights: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = form_on("nvfp4", "cuda")
    fused = compensate(weights.cuda(), on_gpu(known), form).values
    monkeypatch.setattr(steps, "_fused", lambda: None)
    plain = compensate(weights.cuda(), on_gpu(known), form).values
    assert float((fused - plain).abs().gt(1e-6).float().mean()) < 0.05


@pytest.mark.parametrize("kind", [Type.Q3_K, Type.Q4_K, Type.Q6_K, Type.IQ4_XS])
def test_blocks_made_on_a_gpu_are_those_of_its_codes(kind: Type, known: Factor, weights: torch.Tensor) -> None:
    rows = list(weights.bfloat16())
    names = ["a", "b", "c"]
    on_cpu = torch.cat(quantize_compensated(rows, kind, known, names))
    made = torch.cat(quantize_compensated(rows, kind, on_gpu(known), names))
    assert made.device.type == "cpu"
    assert float((on_cpu != made).float().mean()) < 0.1


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.IQ4_XS, Type.Q6_K])
def test_an_export_to_nearest_uses_the_gpu_and_gives_the_processors_bytes(kind: Type, weights: torch.Tensor) -> None:
    importance = torch.rand(COLUMNS) + 0.1
    rows = weights[0].bfloat16()
    assert torch.equal(_quantized(rows, kind, importance, "w"), quantize(rows, kind, importance))
