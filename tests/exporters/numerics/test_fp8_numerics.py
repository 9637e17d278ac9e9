import pytest
import torch

from exporters.numerics.fp8 import quantize_blocks, quantize_channels, whole_blocks, whole_channels
from sixfold.errors import SixfoldError
from tests.exporters.library_oracle import adversarial_weights, library_quantize, same_bits

pytestmark = pytest.mark.arithmetic

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_equal_the_library_bit_for_bit(dtype: torch.dtype) -> None:
    for case, weight in adversarial_weights(dtype).items():
        theirs = library_quantize([weight], "FP8_DYNAMIC")[0]
        for quantize in (quantize_channels, whole_channels):
            quantized, scale = quantize(weight, case)
            assert same_bits(scale, theirs["weight_scale"]), case
            assert same_bits(quantized, theirs["weight"]), case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", [(256, 256), (200, 144), (1, 16)])
def test_blocks_equal_the_library_bit_for_bit(dtype: torch.dtype, cut: tuple[int, int]) -> None:
    for case, whole in adversarial_weights(dtype).items():
        weight = whole[: cut[0], : cut[1]]
        theirs = library_quantize([weight], "FP8_BLOCK")[0]
        for quantize in (quantize_blocks, whole_blocks):
            quantized, scale = quantize(weight, case)
            assert same_bits(scale, theirs["weight_scale"]), case
            assert same_bits(quantized, theirs["weight"]), case


def test_rows_beyond_one_block_of_work_and_wide_rows() -> None:
    for shape in ((3, 700_000), (5000, 320)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        theirs = library_quantize([weight], "FP8_DYNAMIC")[0]
        quantized, scale = quantize_channels(weight, "w")
        assert same_bits(quantized, theirs["weight"])
        assert same_bits(scale, theirs["weight_scale"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("quantize", [quantize_channels, quantize_blocks, whole_channels, whole_blocks])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite_are_refused_by_name(dtype, quantize, bad) -> None:  # type: ignore[no-untyped-def]
    weight = torch.ones(300, 256, dtype=dtype)
    weight[299, 255] = bad
    with pytest.raises(SixfoldError, match=r"model\.layers\.61\.w2\.weight holds NaN or infinite weights.*download"):
        quantize(weight, "model.layers.61.w2.weight")
