"""FP8, NVFP4 and 4-bit groups to nearest: a GPU makes the bytes that a processor makes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from exporters.numerics.awq_packing import pack_gemm, pack_quantized, quantize
from exporters.numerics.fp8 import quantize_blocks, quantize_channels, quantize_tensors
from exporters.numerics.mxfp4 import quantize as mxfp4_weight
from exporters.numerics.nvfp4 import quantize_group
from exporters.registry import exporter_named
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import load_recipes
from tests.gpu.test_ggml_cuda import COLUMNS, IMPORTANCE, ROWS, WEIGHTS, normal

pytestmark = pytest.mark.gpu

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
GROUP = 128

Work = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def fp8_tensors(weight: torch.Tensor) -> list[torch.Tensor]:
    made, scale = quantize_tensors([weight, weight[:16] * 0.5], ["a", "b"])
    return [*made, scale]


def nvfp4(weight: torch.Tensor) -> list[torch.Tensor]:
    """Of three that share a global scale."""
    made, scale = quantize_group([weight[:48], weight[48:], weight[:16] * 0.5], ["a", "b", "c"])
    return [part for packed in made for part in (packed.packed, packed.scale)] + [scale]


def mxfp4(weight: torch.Tensor) -> list[torch.Tensor]:
    made = mxfp4_weight(weight, "a")
    return [made.packed, made.scale]


FORMATS: dict[str, Work] = {
    "FP8 channels": lambda weight: quantize_channels(weight, "a"),
    "FP8 blocks": lambda weight: quantize_blocks(weight[:50, :496], "a"),
    "FP8 tensors": fp8_tensors,
    "NVFP4": nvfp4,
    "MXFP4": mxfp4,
}


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


def differing(work: Work, weight: torch.Tensor) -> int:
    """Bytes that differ; the same refusal is no difference."""
    try:
        expected = work(weight)
    except (SixfoldError, ValueError) as refused:
        with pytest.raises(type(refused)):
            work(weight.cuda())
        return 0
    found = work(weight.cuda())
    assert found[0].is_cuda
    assert [of.shape for of in found] == [of.shape for of in expected]
    return sum(int((bytes_of(a) != bytes_of(b)).sum()) for a, b in zip(found, expected, strict=True))


def cases() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"{name}, {dtype}": make().to(dtype) for name, make in WEIGHTS.items() for dtype in DTYPES}
    tiny = torch.randint(-3, 4, (ROWS, COLUMNS)).short().abs().view(torch.bfloat16)  # the smallest there are
    whole = torch.randint(-(2**15), 2**15, (ROWS, COLUMNS)).short().view(torch.bfloat16)
    largest = torch.where(whole.isfinite(), whole, 0.0)
    return made | {"zeros": torch.zeros(ROWS, COLUMNS).bfloat16(), "tiny": tiny, "any finite": largest}


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_equal_the_processors(name: str) -> None:
    different = {case: differing(FORMATS[name], weight) for case, weight in cases().items()}
    assert {case: count for case, count in different.items() if count} == {}


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_groups_with_zero_points_equal_the_processors(importance: str) -> None:
    given = IMPORTANCE[importance]()
    columns, rows = torch.exp(torch.randn(COLUMNS)), torch.exp(torch.randn(ROWS))

    def work(weight: torch.Tensor) -> list[torch.Tensor]:
        there = [None if of is None else of.to(weight.device) for of in (columns, rows, given)]
        made = quantize(weight, GROUP, *there)
        return [*pack_gemm(made), *pack_quantized(made)]

    different = {case: differing(work, weight) for case, weight in cases().items()}
    assert {case: count for case, count in different.items() if count} == {}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_no_scale_can_hold_is_refused(name: str, value: float) -> None:
    weight = normal().bfloat16()
    weight[3, 300] = value
    with pytest.raises(SixfoldError, match="a holds NaN or infinite weights"):
        FORMATS[name](weight.cuda())


def test_larger_weights_than_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.numerics.e2m1._PIECE", 3 * COLUMNS)
    monkeypatch.setattr("exporters.numerics.awq_packing.BLOCK_ELEMENTS_GPU", 3 * COLUMNS)
    weight = normal().bfloat16()
    assert differing(nvfp4, weight) == 0
    assert differing(lambda one: pack_gemm(quantize(one, GROUP)), weight) == 0


@pytest.mark.parametrize("name", ["fp8", "nvfp4", "mxfp4", "awq", "gguf-q4_k_m"])
def test_exporters_use_the_gpu_and_give_the_processors_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(DEMO)
    (recipe,) = load_recipes(name, ["rounding=nearest", *(["options.imatrix=false"] if "gguf" in name else [])])
    exporter = exporter_named(recipe.exporter)
    plan = exporter.plan(source, recipe, None)
    units = [
        unit for unit in plan.units if unit.encoding.split()[0] in ("fp8", "nvfp4", "mxfp4", "awq", "Q4_K", "Q6_K")
    ]

    def made() -> list[torch.Tensor]:
        read = source.checkpoint.read
        return [out for unit in units for out in exporter.encode(unit, [read(of) for of in unit.inputs], {}, recipe)]

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    there = made()
    assert torch.cuda.max_memory_allocated() > before
    assert {out.device.type for out in there} == {"cpu"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("exporters.gguf.encodes_on_gpu", lambda qtype: False)
    for on_gpu, on_cpu in zip(there, made(), strict=True):
        assert torch.equal(bytes_of(on_gpu), bytes_of(on_cpu))
