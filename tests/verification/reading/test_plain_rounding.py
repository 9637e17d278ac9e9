"""Plain rounding costs what the libraries' own rounding to nearest costs, in every format."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from exporters.ggml.kernels import quantize
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source
from tests.verification.artifacts import Artifacts
from verification.divergence.plain_run import PlainWeights
from verification.measure import runs_of
from verification.reading.held_source import HeldSource
from verification.reading.plain_rounding import Layout, can_be_stacked, layout_of_ggml, rounded_plainly

GGML = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q5_0", "Q5_1", "Q4_0", "Q4_1")


def heavy_tailed(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.02
    return torch.where(torch.rand(rows, columns, generator=generator) < 0.001, 6 * weight, weight)


def by_llama(weight: torch.Tensor, kind: str, importance: torch.Tensor | None = None) -> torch.Tensor:
    qtype = GGMLQuantizationType[kind]
    data = quantize(weight, qtype, importance).numpy().reshape(len(weight), -1)
    return torch.from_numpy(np.ascontiguousarray(dequantize(data, qtype)))


@pytest.mark.parametrize("kind", GGML)
def test_ggml_types_cost_what_llama_cpp_makes_them_cost(kind: str) -> None:
    weight = heavy_tailed(64, 512)
    layout = layout_of_ggml(kind)
    assert layout is not None
    ours, theirs = ((x - weight).norm() for x in (rounded_plainly(weight, layout), by_llama(weight, kind)))
    assert float(ours / theirs) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    "variant", ["fp8", "fp8-block", "fp8-modelopt", "nvfp4", "mxfp4", "nvfp4-modelopt", "gguf-q8_0"]
)
def test_formats_rounded_to_nearest_cost_what_their_artifacts_do(
    variant: str, artifacts: Artifacts, demo: Source
) -> None:
    weights, _ = runs_of(artifacts[variant], demo)
    plain = PlainWeights(weights, HeldSource(demo, torch.device("cpu")))
    quantized = [name for name in weights.names() if weights.encoding(name)]
    for name in quantized[:8]:
        original = demo.checkpoint.read(TensorSlice(name, 0, plain.shape(name)[0])).float()
        ours, theirs = (float((x.read(name) - original).norm()) for x in (plain, weights))
        assert ours == pytest.approx(theirs, rel=0.05), name


def test_integers_with_zero_points() -> None:
    """By the definition: the range of a group, zero included, in fifteen steps."""
    weight = heavy_tailed(8, 256)
    found = rounded_plainly(weight, Layout("integers", (1, 128), 4, symmetric=False))
    for row in range(8):
        for start in (0, 128):
            group = weight[row, start : start + 128]
            scale = (group.max().clamp(min=0) - group.min().clamp(max=0)) / 15
            zero = (-group.min().clamp(max=0) / scale).round()
            expected = ((group / scale + zero).round().clamp(0, 15) - zero) * scale
            torch.testing.assert_close(found[row, start : start + 128], expected)


def test_rows_that_blocks_do_not_divide() -> None:
    weight = heavy_tailed(4, 300)
    layout = layout_of_ggml("Q4_K")
    assert layout is not None
    found = rounded_plainly(weight, layout)
    assert found.shape == weight.shape
    assert float((found - weight).norm() / weight.norm()) < 0.12


@pytest.mark.parametrize("kind", ["nvfp4", "Q4_K", "IQ4_XS", "Q8_0"])
def test_matrices_under_one_another_are_rounded_as_each_by_itself(kind: str) -> None:
    layout = Layout("nvfp4", (1, 16)) if kind == "nvfp4" else layout_of_ggml(kind)
    assert layout is not None
    assert can_be_stacked(layout, 8)
    weights = [heavy_tailed(8, 256) * factor for factor in (1.0, 0.01, 30.0)]
    together = rounded_plainly(torch.cat(weights), layout, matrices=3)
    assert torch.equal(together, torch.cat([rounded_plainly(weight, layout) for weight in weights]))
