"""The bytes of compensated rows, read by the gguf package."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from exporters.ggml.compensated import quantize_compensated
from exporters.ggml.kernels import row_bytes
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
