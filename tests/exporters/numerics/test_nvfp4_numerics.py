import pytest
import torch

from exporters.numerics.nvfp4 import PackedWeight, input_global_scale, quantize_group, whole_group
from sixfold.errors import SixfoldError
from tests.exporters.library_oracle import adversarial_weights, library_quantize, same_bits

pytestmark = pytest.mark.arithmetic


def assert_equals(ours: PackedWeight, global_scale: torch.Tensor, theirs: dict[str, torch.Tensor], case: str) -> None:
    assert same_bits(global_scale, theirs["weight_global_scale"]), case
    assert same_bits(ours.scale, theirs["weight_scale"]), case
    assert same_bits(ours.packed, theirs["weight_packed"]), case


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_weight_alone_equals_the_library_bit_for_bit(dtype: torch.dtype) -> None:
    for case, weight in adversarial_weights(dtype).items():
        theirs = library_quantize([weight], "NVFP4A16")[0]
        for quantize in (quantize_group, whole_group):
            (ours,), global_scale = quantize([weight], [case])
            assert_equals(ours, global_scale, theirs, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_fused_group_equals_the_library_bit_for_bit(dtype: torch.dtype) -> None:
    for case, weight in adversarial_weights(dtype).items():
        group = [weight[:64] * 0.37, weight, weight[:16] * 0.9]
        expected = library_quantize(group, "NVFP4A16")
        for quantize in (quantize_group, whole_group):
            ours, global_scale = quantize(group, ["q", "k", "v"])
            for mine, theirs in zip(ours, expected, strict=True):
                assert_equals(mine, global_scale, theirs, case)


def test_more_weights_than_one_chunk() -> None:
    weight = torch.randn(3000, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    (ours,), global_scale = quantize_group([weight], ["w"])
    assert_equals(ours, global_scale, library_quantize([weight], "NVFP4A16")[0], "large")


def test_f16_equals_the_library_where_its_global_scale_does_not_overflow() -> None:
    for case, weight in adversarial_weights(torch.float16).items():
        if 0 < weight.abs().max() < 0.0411:
            continue
        (ours,), global_scale = quantize_group([weight], [case])
        assert_equals(ours, global_scale, library_quantize([weight], "NVFP4A16")[0], case)


def test_small_f16_weights_keep_their_global_scale() -> None:
    weight = (torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) * 1e-3).half()
    assert library_quantize([weight], "NVFP4A16")[0]["weight_global_scale"].item() == 1.0  # the library's overflow
    (ours,), global_scale = quantize_group([weight], ["w"])
    assert global_scale.item() == pytest.approx(2688 / weight.abs().max().item(), rel=1e-6)
    assert ours.scale.float().max().item() == pytest.approx(448, rel=1 / 16)


def test_weights_of_zero_are_zeros_under_finite_scales() -> None:
    (ours,), global_scale = quantize_group([torch.zeros(32, 64, dtype=torch.bfloat16)], ["w"])
    assert global_scale.item() == 1.0
    assert (ours.scale.float() == 0.125).all()
    assert (ours.packed == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("quantize", [quantize_group, whole_group])
def test_weights_that_are_not_finite_are_refused_by_name(quantize, bad) -> None:  # type: ignore[no-untyped-def]
    good, weight = torch.ones(64, 32, dtype=torch.bfloat16), torch.ones(64, 32, dtype=torch.bfloat16)
    weight[63, 31] = bad
    with pytest.raises(SixfoldError, match=r"layers\.61\.w3\.weight holds NaN or infinite weights"):
        quantize([good, weight], ["layers.61.w1.weight", "layers.61.w3.weight"])


def test_input_global_scale_is_rounded_as_a_bf16_observer_rounds_it() -> None:
    for largest in (0.3, 7.0, 123.0, 0.0):
        observed = torch.tensor(largest).bfloat16()
        scale = input_global_scale(torch.tensor(observed.item()))
        assert scale.shape == (1,)
        assert scale.dtype == torch.float32
        assert scale.item() == (1.0 if largest == 0 else (torch.tensor(2688.0) / observed.float()).bfloat16().item())
