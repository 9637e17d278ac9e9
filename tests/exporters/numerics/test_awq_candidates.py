import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor.modifiers.transform.awq import AWQModifier

from exporters.numerics.awq_candidates import (
    PLAIN,
    DuoScaling,
    GridPoint,
    candidate_scales,
    grid,
    losses,
    output_energy,
    triangular,
    weight_sum,
)
from exporters.numerics.awq_packing import dequantize, quantize

pytestmark = pytest.mark.arithmetic

GROUP = 64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("points", [6, 20, 31])
@pytest.mark.parametrize("duo_scaling", [True, False, "both"])
def test_the_grid_is_awq_modifiers(points: int, duo_scaling: DuoScaling) -> None:
    theirs = AWQModifier(n_grid=points, duo_scaling=duo_scaling)._get_grid_search_params()
    assert grid(points, duo_scaling) == tuple(GridPoint(ratio, duo) for ratio, duo in theirs)
    assert PLAIN in grid(points, duo_scaling)


def test_the_weights_mean_is_awq_modifiers() -> None:
    layers = [torch.nn.Linear(256, 48), torch.nn.Linear(256, 80)]
    for i, layer in enumerate(layers):
        layer.weight.data = random(*layer.weight.shape, seed=i)
        arguments = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=GROUP)
        layer.quantization_scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    theirs = AWQModifier._compute_layer_means(layers)
    ours = sum(weight_sum(layer.weight.data, GROUP) for layer in layers) / 128
    assert torch.allclose(ours.float(), theirs.float(), rtol=128 * 2**-24)  # theirs are float32 sums of 128 rows


def literal_scale(ratio: float, duo: bool, x_mean: torch.Tensor, w_mean: torch.Tensor) -> torch.Tensor:
    """As AWQModifier computes it inside of its grid search, channel by channel in float64."""
    scales = []
    for x, w in zip(x_mean.double().tolist(), w_mean.double().tolist(), strict=True):
        scale = x**ratio / (w ** (1 - ratio) + 1e-4) if duo else x**ratio
        scales.append(max(scale, 1e-4))
    norm = (max(scales) * min(scales)) ** 0.5
    return torch.tensor([scale / norm for scale in scales], dtype=torch.float64)


def test_candidates_follow_the_published_formula() -> None:
    x_mean, w_mean = random(256, seed=1).abs(), random(256, seed=2).abs()
    x_mean[5] = 0
    points = grid(20, "both")
    for point, scale in zip(points, candidate_scales(points, x_mean, w_mean), strict=True):
        expected = literal_scale(point.ratio, point.duo, x_mean, w_mean)
        assert torch.allclose(scale.double(), expected, rtol=1e-5)
    assert torch.equal(candidate_scales([PLAIN], x_mean, w_mean)[0], torch.ones(256))


@pytest.mark.parametrize("rows", [40, 900], ids=["fewer rows than channels", "more"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_loss_is_the_output_error_of_the_written_weights(rows: int, clip: bool) -> None:
    weight, inputs = random(72, 256).bfloat16(), random(rows, 256, seed=1) * torch.linspace(0.1, 3, 256)
    scales = candidate_scales(grid(8, True), inputs.abs().mean(0), weight.float().abs().mean(0))
    importance = inputs.square().mean(0) if clip else None
    found = losses(weight, inputs, scales, GROUP, importance)
    for scale, loss in zip(scales, found, strict=True):
        read = dequantize(quantize(weight, GROUP, scale, None, importance)).double() / scale
        expected = (inputs.double() @ (read - weight.double()).t()).square().sum(0)
        assert torch.allclose(loss.double(), expected, rtol=1e-3)
    outputs = (inputs @ weight.float().t()).square().sum(0)
    assert torch.allclose(output_energy(weight, inputs), outputs, rtol=1e-4)


def test_an_outlier_channel_makes_scaling_better_than_plain_rounding() -> None:
    weight, inputs = random(64, 256), random(64, 256, seed=1)
    inputs[:, 17] *= 60
    points = grid(20, True)
    scales = candidate_scales(points, inputs.abs().mean(0), weight_sum(weight, GROUP).float() / 64)
    found = losses(weight, inputs, scales, GROUP).sum(1)
    assert found.min() < 0.5 * found[points.index(PLAIN)]
    assert scales[found.argmin()][17] > 3 * scales[found.argmin()].median()


def test_a_triangle_stands_for_many_rows() -> None:
    rows = random(500, 64)
    small = triangular(rows)
    assert small.shape == (64, 64)
    assert torch.allclose(small.t() @ small, rows.t() @ rows, rtol=1e-4, atol=1e-3)
    assert torch.equal(triangular(rows[:20]), rows[:20])


@pytest.mark.parametrize("clip", [False, True])
def test_experts_side_by_side_lose_what_each_loses_alone(clip: bool) -> None:
    """As a GPU searches them. Sums of a product may be taken in another order there than for one."""
    weights, rows = random(3, 72, 256).bfloat16(), random(3, 40, 256, seed=1)
    importance = rows.square().mean(1) if clip else None
    points = grid(8, True)
    scales = torch.stack(
        [candidate_scales(points, x.abs().mean(0), w.float().abs().mean(0)) for x, w in zip(rows, weights, strict=True)]
    )
    found = losses(weights, rows, scales, GROUP, importance)
    for n, together in enumerate(found):
        alone = losses(weights[n], rows[n], scales[n], GROUP, None if importance is None else importance[n])
        assert torch.allclose(together, alone, rtol=1e-5)
        assert torch.equal(weight_sum(weights, GROUP)[n], weight_sum(weights[n], GROUP))
        assert torch.allclose(output_energy(weights, rows)[n], output_energy(weights[n], rows[n]), rtol=1e-5)
