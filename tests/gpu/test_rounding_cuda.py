"""Rounding with compensation on a GPU: its kernels against the steps that a processor makes, and exports by it."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.compensated import quantize_compensated
from exporters.ggml.kernels import quantize
from exporters.gguf import _quantized
from exporters.rounding import compensate as steps
from exporters.rounding.compensate import compensate
from exporters.rounding.factor import Factor, factor, group_factors
from exporters.rounding.format import Format
from exporters.rounding.mxfp4 import Mxfp4
from exporters.rounding.products import add_product
from tests.exporters.rounding.test_compensate import FORMATS, correlated, output_error

pytestmark = pytest.mark.gpu

EXPERTS, ROWS, COLUMNS = 3, 80, 512
FORMS: dict[str, Format] = {**FORMATS, "mxfp4": Mxfp4()}


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
    form = FORMS[name]
    if name == "nvfp4":
        return type(form)(torch.full((EXPERTS,), 2688 / 0.08, device=device))  # type: ignore[call-arg]
    return form


@pytest.mark.parametrize("name", FORMS)
def test_kernels_make_what_single_steps_make(name: str, weights: torch.Tensor) -> None:
    """The first pass, a sweep and settling, each from the same beginning. Sums of another order turn a few codes over
    that lie halfway between two, and with each what comes after it in its row. Scales are compared without their signs:
    where levels are as far below zero as above (Q8_0), both leave the same error."""
    columns = 256
    known = factor(torch.stack([correlated(columns, seed) for seed in range(EXPERTS)]))
    target = weights[:, :, :columns].mT.contiguous()
    form, own = form_on(name, "cpu"), group_factors(known.moments, FORMS[name].group)
    made, found, opened = steps._first_pass(target, known, form)
    gradient = known.moments @ (made - target)
    swept, chosen, slope = made.clone(), found.clone(), gradient.clone()
    steps._sweep(slope, swept, chosen, opened, known.moments, own, form)
    settled = swept.clone()
    steps._settle(slope.clone(), settled, chosen, known.moments, form)

    first_pass, sweep, settle = steps._kernels(form_on(name, "cuda")) or pytest.fail("no kernels")
    form, device = form_on(name, "cuda"), torch.device("cuda")
    values, parameters, spans = first_pass(target.to(device), on_gpu(known), form)
    assert alike(values, made)
    assert alike(parameters.abs(), found.abs())
    assert opened is None or alike(spans, opened)
    moments = known.moments.to(device)
    values, parameters, gradient = made.to(device), found.to(device), gradient.to(device)
    spans = None if opened is None else opened.to(device)
    sweep(gradient, values, parameters, spans, moments, own.to(device), form)
    assert alike(values, swept)
    assert alike(parameters.abs(), chosen.abs())
    values = swept.to(device)
    settle(slope.to(device), values, chosen.to(device), moments, form)
    assert alike(values, settled)


def alike(made: torch.Tensor, expected: torch.Tensor) -> bool:
    off = (made.cpu() - expected).abs() > 1e-5 * expected.abs().max()
    return float(off.float().mean()) < 0.02


@pytest.mark.parametrize("turned", [False, True])
def test_products_are_about_as_exact_as_those_of_float32(turned: bool) -> None:
    """Relative to |left| |right|, also where one channel is a thousand times as large as others."""
    draw = torch.Generator().manual_seed(3)
    left = torch.randn(2, 600, 70, generator=draw) * torch.logspace(0, 3, 70)
    right, into = torch.randn(2, 600, 90, generator=draw), torch.randn(2, 70, 90, generator=draw)
    sides = [left.mT.contiguous(), right.mT.contiguous().mT] if turned else [left.mT, right]
    expected = into.double() - left.double().mT @ right.double()
    plain, made = into.cuda() - left.cuda().mT @ right.cuda(), into.cuda()
    add_product(made, sides[0].cuda(), sides[1].cuda(), -1)
    size = into.double().abs() + left.double().abs().mT @ right.double().abs()
    errors = [float(((found.cpu().double() - expected).abs() / size).max()) for found in (made, plain)]
    assert errors[0] < 4 * errors[1]


@pytest.mark.parametrize("name", FORMS)
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
