import pytest
import torch
from compressed_tensors.compressors import MXFP4PackedCompressor
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.quantization import preset_name_to_scheme

from exporters.numerics.mxfp4 import as_float, quantize, whole
from sixfold.errors import SixfoldError
from tests.exporters.library_oracle import adversarial_weights, library_quantize, same_bits

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_weight_equals_the_library_bit_for_bit(dtype: torch.dtype) -> None:
    underflow = 2.0**-20 if dtype == torch.float16 else 2.0**-100
    for case, weight in adversarial_weights(dtype).items():
        weight = weight.reshape(-1, 256)
        groups = weight.float().unflatten(1, (-1, 32))
        known = _computable(groups.abs().amax(-1), dtype)
        ours, theirs = quantize(weight, case), library_quantize([weight], "MXFP4A16")[0]
        assert same_bits(ours.scale[known], theirs["weight_scale"][known]), case
        codes, expected = (_codes(packed)[known] for packed in (ours.packed, theirs["weight_packed"]))
        lost = groups[known].abs() < groups[known].abs().amax(-1, keepdim=True) * underflow
        assert same_bits(torch.where(lost, codes & 7, codes), torch.where(lost, expected & 7, expected)), case
        there = whole(weight, case)  # as a GPU does it
        assert same_bits(there.scale, ours.scale), case
        assert same_bits(there.packed, ours.packed), case


def _computable(largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Groups that the library has numbers for: its scales and logarithms are of the weights' own dtype."""
    low, high = (2.0**-14, 1.75 * 2.0**15) if dtype == torch.float16 else (2.0**-124, 1.75 * 2.0**127)
    return ((largest == 0) & (dtype != torch.float16)) | ((largest >= low) & (largest < high))


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [out, groups, 32]; what underflows in the library loses its sign, which `lost` allows for."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1).unflatten(1, (-1, 32))


def test_what_the_library_has_no_numbers_for_is_rounded_as_everything_else() -> None:
    shape = torch.tensor([1.0, -0.75, 0.5, 0.3] * 8)
    for weight in (shape * 2.0**-20, shape * 1e-6, shape.half() * 65504, shape.bfloat16() * 3e38):
        (scale,) = as_float(quantize(weight[None].contiguous(), "w").scale).flatten().tolist()
        exponent = int(torch.frexp(weight.float().abs().max())[1]) - 1
        raised = float(weight.float().abs().max()) >= 1.75 * 2.0**exponent
        assert scale == 2.0 ** (exponent - 2 + raised)


def test_every_stored_exponent_is_the_power_of_two_that_the_library_reads() -> None:
    stored = torch.arange(255, dtype=torch.uint8)
    assert torch.equal(as_float(stored), decompress_mx_scale(stored).float())


def test_experts_that_were_in_mxfp4_stay_the_same_numbers() -> None:
    random = torch.Generator().manual_seed(0)
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])[torch.randint(8, (64, 256), generator=random)]
    held = numbers.unflatten(1, (-1, 32)) * torch.exp2(torch.randint(-9, 9, (64, 8, 1), generator=random).float())
    weight = held.flatten(1).bfloat16()
    made = quantize(weight, "w")
    scheme = preset_name_to_scheme("MXFP4A16", ["Linear"])
    parts = {"weight_packed": made.packed, "weight_scale": made.scale}
    assert torch.equal(MXFP4PackedCompressor.decompress(parts, scheme)["weight"].float(), weight.float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    weight = torch.ones(64, 32, dtype=torch.bfloat16)
    weight[63, 31] = bad
    with pytest.raises(SixfoldError, match=r"layers\.61\.w3\.weight holds NaN or infinite weights"):
        quantize(weight, "layers.61.w3.weight")
