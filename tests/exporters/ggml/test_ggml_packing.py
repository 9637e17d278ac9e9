"""What is packed is what the gguf package reads: d * scale * code, less the minimum."""

import sys

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from exporters.ggml.cuda.rounding import half_away, nearest, peak
from exporters.ggml.kernels import _on_gpu, row_bytes
from exporters.ggml.packing import Blocks, as_read, pack
from exporters.numerics.division import divide
from sixfold.errors import SixfoldError

BLOCKS = 50


def numbers(below: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, below, shape, dtype=torch.int32)


def d() -> torch.Tensor:
    return torch.randn(BLOCKS).half()


def wide(scales: torch.Tensor, size: int) -> torch.Tensor:
    return scales.repeat_interleave(size, 1).float()


@pytest.mark.parametrize(
    ("qtype", "levels", "steps", "size"), [("Q2_K", 4, 16, 16), ("Q4_K", 16, 64, 32), ("Q5_K", 32, 64, 32)]
)
def test_scales_and_minimums(qtype: str, levels: int, steps: int, size: int) -> None:
    groups = 256 // size
    m, scales, minimums = d(), numbers(steps, BLOCKS, groups), numbers(steps, BLOCKS, groups)
    blocks = Blocks(d(), numbers(levels, BLOCKS, 256), m, scales, minimums)
    scale, minimum = blocks.d.float()[:, None] * scales, m.float()[:, None] * minimums
    assert_reads(qtype, blocks, wide(scale, size) * blocks.codes - wide(minimum, size))


@pytest.mark.parametrize(("qtype", "levels", "steps", "offset"), [("Q3_K", 8, 64, 32), ("Q6_K", 64, 256, 0)])
def test_scales(qtype: str, levels: int, steps: int, offset: int) -> None:
    scales = numbers(steps, BLOCKS, 16) - (steps // 2 if qtype == "Q6_K" else 0)
    blocks = Blocks(d(), numbers(levels, BLOCKS, 256), scales=scales)
    scale = blocks.d.float()[:, None] * (scales - offset)
    assert_reads(qtype, blocks, wide(scale, 16) * (blocks.codes - levels // 2))


@pytest.mark.parametrize("qtype", ["IQ4_XS", "IQ4_NL"])
def test_codebook(qtype: str) -> None:
    levels = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    scales = numbers(64, BLOCKS, 8) if qtype == "IQ4_XS" else None
    blocks = Blocks(d(), numbers(16, BLOCKS, 256 if scales is not None else 32), scales=scales)
    scale = blocks.d.float()[:, None] if scales is None else wide(blocks.d.float()[:, None] * (scales - 32), 32)
    assert_reads(qtype, blocks, scale * levels[blocks.codes])


@pytest.mark.parametrize(("qtype", "levels"), [("Q4_0", 16), ("Q5_0", 32), ("Q4_1", 16), ("Q5_1", 32)])
def test_blocks_of_32(qtype: str, levels: int) -> None:
    minimum = d() if qtype.endswith("1") else None
    blocks = Blocks(d(), numbers(levels, BLOCKS, 32), minimum)
    scale = blocks.d.float()[:, None]
    values = (
        scale * (blocks.codes - levels // 2) if minimum is None else scale * blocks.codes + minimum.float()[:, None]
    )
    assert_reads(qtype, blocks, values)


def test_eight_bits() -> None:
    blocks = Blocks(d(), numbers(255, BLOCKS, 32) - 127)
    assert_reads("Q8_0", blocks, blocks.d.float()[:, None] * blocks.codes)


@pytest.mark.parametrize(("qtype", "groups"), [("Q2_K", 16), ("Q4_K", 8)])
def test_a_negative_scale_runs_into_its_neighbor_as_it_is_read(qtype: str, groups: int) -> None:
    scales, minimums = numbers(256, BLOCKS, groups), numbers(16 if qtype == "Q2_K" else 256, BLOCKS, groups)
    one, ones = torch.ones(BLOCKS).half(), torch.ones(BLOCKS, 256, dtype=torch.uint8)
    read_scales, read_minimums = as_read(Type[qtype], scales, minimums)
    for blocks, expected in (
        (Blocks(one, ones, 0 * one, scales, minimums), read_scales),
        (Blocks(0 * one, ones, one, scales, minimums), -read_minimums),
    ):
        assert_reads(qtype, blocks, wide(expected, 256 // groups))


def assert_reads(qtype: str, blocks: Blocks, expected: torch.Tensor) -> None:
    packed = pack(Type[qtype], blocks)
    assert packed.shape == (BLOCKS, row_bytes(Type[qtype], expected.shape[1]))
    read = torch.from_numpy(dequantize(packed.numpy(), Type[qtype]))
    torch.testing.assert_close(read, expected, rtol=1e-6, atol=1e-6)


def test_rounding_is_that_of_c() -> None:
    values = torch.tensor([0.5, 1.5, -2.5, 0.49999997, -0.2, float("inf"), float("nan")])
    assert nearest(values).tolist() == [0, 2, -2, 0, 0, -0x400000, 0]
    assert half_away(values[:5]).tolist() == [1.0, 2.0, -3.0, 0.0, 0.0]
    a, b = torch.rand(10_000) + 0.1, torch.rand(10_000) + 0.1
    assert np.array_equal(divide(127.0, b).numpy(), np.float32(127.0) / b.numpy())
    assert np.array_equal(divide(a, 63.0).numpy(), a.numpy() / np.float32(63.0))


def test_the_first_of_two_peaks_has_its_sign() -> None:
    assert peak(torch.tensor([[1.0, -2.0, 2.0], [2.0, -2.0, 1.0], [-0.0, 0.0, 0.0]])).tolist() == [-2.0, 2.0, 0.0]
    assert peak(torch.tensor([[float("nan"), -1.0]])).tolist() == [-1.0]


def test_without_triton_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for module in [name for name in sys.modules if name.startswith("exporters.ggml.cuda.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SixfoldError, match="needs Triton"):
        _on_gpu(torch.zeros(1, 256), Type.Q4_K, None)
