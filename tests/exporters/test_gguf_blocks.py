"""Packed blocks mean the codes and scales that they were made of, as gguf-py reads them."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import IQ4_NL, dequantize

from exporters.ggml.blocks import packed

GROUPS = {Type.Q3_K: 16, Type.Q4_K: 8, Type.Q5_K: 8, Type.Q6_K: 16, Type.IQ4_XS: 8}
LEVELS = {Type.Q3_K: 8, Type.Q4_K: 16, Type.Q5_K: 32, Type.Q6_K: 64, Type.IQ4_XS: 16}
MULTIPLES = {
    Type.Q3_K: (-32, 31),
    Type.Q4_K: (0, 63),
    Type.Q5_K: (0, 63),
    Type.Q6_K: (-128, 127),
    Type.IQ4_XS: (-32, 31),
}


@pytest.mark.parametrize("qtype", GROUPS, ids=lambda qtype: qtype.name)
def test_a_block_holds_what_it_was_packed_of(qtype: Type) -> None:
    draw = np.random.default_rng(0)
    number, groups = 50, GROUPS[qtype]
    codes = draw.integers(0, LEVELS[qtype], (number, 256)).astype(np.uint8)
    low, high = MULTIPLES[qtype]
    multiples = draw.integers(low, high + 1, (number, groups))
    minima = draw.integers(0, 64, (number, groups))
    d, dmin = (draw.normal(size=number).astype(np.float16) for _ in range(2))

    blocks = packed(qtype, codes, multiples, d, minima, dmin)

    assert blocks.dtype == np.uint8
    assert blocks.shape == (number, GGML_QUANT_SIZES[qtype][1])
    each = 256 // groups
    scale = (d.astype(np.float32)[:, None] * multiples.astype(np.float32)).repeat(each, 1)
    offset = (dmin.astype(np.float32)[:, None] * minima.astype(np.float32)).repeat(each, 1)
    expected = {
        Type.Q3_K: lambda: scale * (codes.astype(np.float32) - 4),
        Type.Q4_K: lambda: scale * codes - offset,
        Type.Q5_K: lambda: scale * codes - offset,
        Type.Q6_K: lambda: scale * (codes.astype(np.float32) - 32),
        Type.IQ4_XS: lambda: scale * np.array(IQ4_NL.kvalues, np.float32)[codes],
    }[qtype]()
    np.testing.assert_array_equal(dequantize(blocks, qtype), expected)
