"""The bytes of compensated rows, read by the gguf package."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from exporters.ggml.compensated import quantize_compensated
from exporters.ggml.kernels import quantize, row_bytes
from exporters.rounding.compensate import compensate
from exporters.rounding.factor import factor
from exporters.rounding.kquants import FORMS

ROWS = 12


@pytest.mark.parametrize("name", FORMS)
def test_what_is_read_is_what_was_found_best(name: str) -> None:
    columns = FORMS[name].span or 96
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(4 * columns, columns, generator=draw) @ (torch.randn(columns, columns, generator=draw) * 0.1)
    known = factor((inputs.mT @ inputs / len(inputs))[None])
    weight = torch.randn(ROWS, columns, generator=draw) * 0.02
    weight[3] = 0
    (blocks,) = quantize_compensated([weight], Type[name], known, ["w"])
    assert blocks.numel() == ROWS * row_bytes(Type[name], columns)
    read = torch.from_numpy(dequantize(blocks.numpy().reshape(ROWS, -1), Type[name]))
    expected = compensate(weight[None], known, FORMS[name]).values[0]
    assert torch.allclose(read, expected, rtol=1e-5, atol=1e-8)
    assert float((read[3]).abs().max()) == 0


def test_weights_that_were_in_blocks_before_stay_what_they_are() -> None:
    """Q4_1's numbers, in BF16 as dequantized checkpoints have them, beside rows that never were quantized."""
    draw = torch.Generator().manual_seed(4)
    inputs = torch.randn(512, 96, generator=draw) @ (torch.randn(96, 96, generator=draw) * 0.1)
    known = factor((inputs.mT @ inputs / len(inputs))[None])
    weight = torch.randn(2 * ROWS, 96, generator=draw) * 0.02
    before = dequantize(quantize(weight, Type.Q4_1).numpy().reshape(2 * ROWS, -1), Type.Q4_1)
    weight[:ROWS] = torch.from_numpy(before)[:ROWS].bfloat16().float()
    (blocks,) = quantize_compensated([weight], Type.Q5_1, known, ["w"])
    nearest = quantize(weight, Type.Q5_1, known.moments[0].diagonal().contiguous())
    assert torch.equal(blocks.view(2 * ROWS, -1)[:ROWS], nearest.view(2 * ROWS, -1)[:ROWS])
    read = torch.from_numpy(dequantize(blocks.numpy().reshape(2 * ROWS, -1), Type.Q5_1))
    anew = compensate(weight[None], known, FORMS["Q5_1"]).values[0]
    assert torch.allclose(read[ROWS:], anew[ROWS:], rtol=1e-5, atol=1e-8)
    assert float((read - weight)[:ROWS].square().sum()) < 0.05 * float((anew - weight)[:ROWS].square().sum())
