"""What is quantized on the GPU is, byte for byte, what ggml's own library makes of the same weights on the CPU."""

from collections.abc import Callable

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.kernels import quantize, row_bytes
from sixfold.errors import SixfoldError

pytestmark = pytest.mark.gpu

ROWS, COLUMNS = 64, 512
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")


def normal() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS) * 0.02


def by_block(factors: torch.Tensor) -> torch.Tensor:
    return normal() * factors.repeat_interleave(32, 1)


def nearly_constant(sign: int) -> torch.Tensor:
    weights = sign * (1 + torch.rand(ROWS, COLUMNS) * 1e-6)
    weights[::2] = weights[::2, :1]
    return weights


def with_signed_zeros() -> torch.Tensor:
    weights = normal().relu()
    weights[::2] = 0.0
    return weights * (torch.rand(ROWS, COLUMNS) - 0.5).sign()


def of_any_bits() -> torch.Tensor:
    weights = torch.randint(0, 2**16, (ROWS, COLUMNS), dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    return torch.where(weights.abs() < 6e4, weights, 0.0)


def with_one_huge() -> torch.Tensor:
    weights = normal()
    weights[:, 7] = 3e4
    return weights


WEIGHTS: dict[str, Callable[[], torch.Tensor]] = {
    "normal": normal,
    "BF16": lambda: normal().bfloat16(),
    "F16": lambda: normal().half(),
    "uneven": lambda: by_block(torch.exp(torch.randn(ROWS, COLUMNS // 32) * 3)),
    "subnormal": lambda: by_block(torch.exp2(-torch.randint(10, 149, (ROWS, COLUMNS // 32)).float())),
    "nearly one": lambda: nearly_constant(1),
    "nearly minus one": lambda: nearly_constant(-1),
    "signed zeros": with_signed_zeros,
    "few values": lambda: torch.randint(-3, 4, (ROWS, COLUMNS)) * 0.25,
    "any bits": of_any_bits,
    "one huge": with_one_huge,
}
IMPORTANCE: dict[str, Callable[[], torch.Tensor | None]] = {
    "no importance": lambda: None,
    "even": lambda: torch.rand(COLUMNS),
    "wide": lambda: torch.exp(torch.randn(COLUMNS) * 6),
    "half of it zero": lambda: torch.rand(COLUMNS) * (torch.rand(COLUMNS) < 0.5),
    "zero": lambda: torch.zeros(COLUMNS),
    "subnormal": lambda: torch.rand(COLUMNS) * 1e-42,
    "huge": lambda: torch.rand(COLUMNS) * 1e30,
}


def differing(weights: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> int:
    """Bytes that differ; the same refusal is no difference."""
    try:
        expected = quantize(weights, qtype, importance)
    except SixfoldError:
        with pytest.raises(SixfoldError, match="infinite or not a number"):
            quantize(weights.cuda(), qtype, importance)
        return 0
    found = quantize(weights.cuda(), qtype, importance)
    assert found.is_cuda
    assert found.shape == expected.shape
    return int((found.cpu() != expected).sum())


@pytest.mark.parametrize("name", TYPES)
def test_bytes_equal_ggmls(name: str) -> None:
    torch.manual_seed(0)
    different = {
        f"{weights}, {importance}": differing(make(), Type[name], given())
        for weights, make in WEIGHTS.items()
        for importance, given in IMPORTANCE.items()
    }
    assert {case: count for case, count in different.items() if count} == {}


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "IQ4_XS", "Q5_0"])
def test_a_tensor_in_pieces_and_rows_of_any_length(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import exporters.ggml.cuda.encode

    monkeypatch.setattr(exporters.ggml.cuda.encode, "_PIECE", 3 * 768)
    weights = torch.randn(2, 5, 768).bfloat16().transpose(0, 1)  # in no order that can be viewed as rows
    assert differing(weights, Type[name], torch.rand(768)) == 0


def test_types_without_kernels_go_through_the_host() -> None:
    assert differing(normal(), Type.IQ3_S, torch.rand(COLUMNS)) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["Q4_K", "Q5_0", "Q8_0"])
def test_what_no_block_can_hold_is_refused(name: str, value: float) -> None:
    weights = normal()
    weights[3, 300] = value
    with pytest.raises(SixfoldError, match="a layer has weights that are infinite or not a number"):
        quantize(weights.cuda(), Type[name], name="a layer")


@pytest.mark.parametrize("name", ["Q3_K", "Q6_K", "IQ4_XS"])
def test_what_ggml_passes_over(name: str) -> None:
    weights = normal()
    weights[3, 300] = 1e30
    assert differing(weights, Type[name], None) == 0
    assert differing(weights, Type[name], torch.rand(COLUMNS)) == 0


def test_sizes() -> None:
    weights = torch.randn(3, 256, device="cuda")
    assert quantize(weights, Type.Q4_K).numel() == 3 * row_bytes(Type.Q4_K, 256)
