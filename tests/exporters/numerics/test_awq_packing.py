import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import quantize as library_quantize

from exporters.numerics import awq_packing
from exporters.numerics.awq_packing import dequantize, group_parameters, pack_gemm, pack_quantized, quantize
from tests.exporters.autoawq_library import WQLinear_GEMM, packing_utils

pytestmark = pytest.mark.arithmetic

GROUP = 128


def weights(out_features: int = 48, in_features: int = 384, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) * torch.logspace(-3, 0, out_features)[:, None]
    weight[3, :GROUP] = 0
    weight[4, :GROUP] = weight[4, :GROUP].abs() + 0.5
    weight[5, :GROUP] = -weight[5, :GROUP].abs() - 0.5
    return weight.bfloat16()


@pytest.fixture(params=["plain", "clipped"])
def importance(request: pytest.FixtureRequest) -> torch.Tensor | None:
    return None if request.param == "plain" else torch.linspace(0.0, 3.0, 384).square()


def test_autoawq_unpacks_what_was_meant(importance: torch.Tensor | None) -> None:
    made = quantize(weights(), GROUP, importance=importance)
    qweight, qzeros, scales = pack_gemm(made)
    assert (qweight.dtype, qzeros.dtype, scales.dtype) == (torch.int32, torch.int32, torch.float16)
    assert (qweight.shape, qzeros.shape, scales.shape) == ((384, 6), (3, 6), (3, 48))
    levels, zeros = packing_utils.reverse_awq_order(*packing_utils.unpack_awq(qweight, qzeros, 4), 4)
    assert torch.equal((levels & 15).t().to(torch.uint8), made.levels)
    assert torch.equal((zeros & 15).t().to(torch.uint8), made.zeros)
    read = packing_utils.dequantize_gemm(qweight, qzeros, scales.float(), 4, GROUP)
    assert torch.equal(read.t(), dequantize(made))


def test_packing_equals_autoawqs_own_linear_bit_for_bit() -> None:
    made = quantize(weights(64), GROUP)
    linear = torch.nn.Linear(384, 64, bias=False)
    linear.weight.data = dequantize(made)
    theirs = WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=made.scales.t(), zeros=made.zeros.t().float())
    qweight, qzeros, scales = pack_gemm(made)
    assert torch.equal(qweight, theirs.qweight)
    assert torch.equal(qzeros, theirs.qzeros)
    assert torch.equal(scales, theirs.scales)


def test_compressed_tensors_reads_and_would_write_the_same(importance: torch.Tensor | None) -> None:
    weight = weights()
    made = quantize(weight, GROUP, importance=importance)
    packed, scale, zero_point, shape = pack_quantized(made)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=GROUP),
    )
    state = {
        "weight_packed": packed,
        "weight_scale": scale,
        "weight_zero_point": zero_point,
        "weight_shape": shape,
    }
    read = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    assert torch.equal(read, dequantize(made).bfloat16())
    their_zeros = (made.zeros.to(torch.int8) - 8).contiguous()
    parameters = {"weight": weight.float(), "weight_scale": scale.float(), "weight_zero_point": their_zeros}
    written = PackedQuantizationCompressor.compress(parameters, scheme)
    assert torch.equal(written["weight_packed"], packed)
    assert torch.equal(written["weight_zero_point"], zero_point)
    assert torch.equal(written["weight_shape"], shape)
    their_levels = library_quantize(weight.float(), scale.float(), their_zeros, scheme.weights, dtype=torch.int8)
    assert torch.equal((their_levels + 8).to(torch.uint8), made.levels)


def test_scales_are_the_same_number_in_fp16_and_bf16() -> None:
    highest = torch.logspace(-9, 4, 5000)
    scale, _ = group_parameters(-highest, highest)
    assert torch.equal(scale.half().float(), scale)
    assert torch.equal(scale.bfloat16().float(), scale)
    assert (scale > 0).all()
    sizable = highest > 1e-3
    assert ((scale / (2 * highest / 15) - 1).abs()[sizable] < 2**-8).all()


def test_rounding_is_within_half_a_step_and_keeps_zero() -> None:
    weight = weights()
    made = quantize(weight, GROUP)
    steps = (dequantize(made) - weight.float()).abs().view(48, 3, GROUP) / made.scales[..., None]
    assert steps.max() < 0.5 + 15 * 2**-8  # the scale itself was rounded
    assert not dequantize(made)[3, :GROUP].any()


def test_columns_and_rows_are_applied_before_rounding() -> None:
    weight, columns, rows = weights(), torch.linspace(0.1, 3, 384), torch.linspace(0.5, 2, 48)
    made = quantize(weight, GROUP, columns, rows)
    same = quantize(weight.float() * columns / rows[:, None], GROUP)
    assert torch.equal(made.levels, same.levels)
    assert torch.equal(made.scales, same.scales)
    importance = torch.rand(384, generator=torch.Generator().manual_seed(1))
    made = quantize(weight, GROUP, columns, None, importance)
    same = quantize(weight.float() * columns, GROUP, importance=importance / columns.square())
    assert torch.equal(made.levels, same.levels)


def test_clipping_lowers_the_weighted_error_of_every_group() -> None:
    weight = weights(seed=3)
    importance = torch.rand(384, generator=torch.Generator().manual_seed(1)) + 0.01

    def error(made: awq_packing.Quantized) -> torch.Tensor:
        return ((dequantize(made) - weight.float()).square() * importance).view(48, 3, GROUP).double().sum(-1)

    plain, clipped = error(quantize(weight, GROUP)), error(quantize(weight, GROUP, importance=importance))
    assert (clipped <= plain * (1 + 1e-5)).all()
    assert clipped.sum() < 0.9 * plain.sum()


def test_bytes_depend_on_neither_blocks_nor_threads(
    importance: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weights(64, 384)
    first = pack_gemm(quantize(weight, GROUP, importance=importance))
    monkeypatch.setattr(awq_packing, "BLOCK_ELEMENTS", 384 * 5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        second = pack_gemm(quantize(weight, GROUP, importance=importance))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_weights_that_no_scale_can_hold_are_refused(bad: float) -> None:
    weight = weights().float()
    weight[7, 200] = bad
    with pytest.raises(ValueError, match="not finite or too large"):
        quantize(weight, GROUP)


def test_a_matrix_of_one_group_is_packed() -> None:
    weight = weights(48, 128)
    quantized = awq_packing.quantize(weight, 128)
    packed, _, zeros, shape = awq_packing.pack_quantized(quantized)
    assert (packed.shape, zeros.shape, shape.tolist()) == ((48, 16), (6, 1), [48, 128])
    unpacked = unpack_from_int32(zeros, 4, torch.Size((48, 1)), packed_dim=0)
    assert torch.equal(unpacked + 8, quantized.zeros.to(unpacked.dtype))
