"""One damaged code among all others is found; whatever else rounds otherwise than to nearest raises nothing."""

from pathlib import Path

import pytest
import torch

from sixfold.model.source import Source
from tests.exporters.exported import DEMO, silent
from tests.verification.artifacts import Artifacts
from verification.reading.declared import Scheme
from verification.reading.stored_codes import Codes, codes_of
from verification.reading.weights import CodedWeights, FolderWeights
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject
from verification.verify import verify
from verification.weights.code_check import misplaced, place_in_grid

ROWS, COLUMNS = 64, 256


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def rounded(weight: torch.Tensor, *, feedback: float = 0.0) -> Codes:
    """To four bits with one scale per row, column by column; `feedback` of each error is put into the next column, as
    GPTQ does by the inputs' correlations."""
    scale = weight.abs().amax(1, keepdim=True) / 7
    left, numbers = (weight / scale).clone(), torch.empty_like(weight)
    for column in range(weight.shape[1]):
        numbers[:, column] = left[:, column].round().clamp(-8, 7)
        if column + 1 < weight.shape[1]:
            left[:, column + 1] += feedback * (left[:, column] - numbers[:, column])
    return Codes(numbers, torch.arange(-8, 8).float(), scale, torch.zeros(1))


def test_nearest_codes_raise_nothing_and_one_step_too_far_does(weight: torch.Tensor) -> None:
    codes = rounded(weight)
    assert misplaced(codes, weight) is None
    place = (weight / codes.scale)[5]
    column = int((place - place.round()).abs().argmin())
    codes.numbers[5, column] += 1 if codes.numbers[5, column] < 7 else -1
    found = misplaced(codes, weight)
    assert found is not None
    assert (found.row, found.column, found.count) == (5, column, 1)
    assert found.steps == pytest.approx(1, abs=0.01)
    assert found.source == pytest.approx(float(weight[5, column]))
    assert abs(found.held - found.source) == pytest.approx(float(codes.scale[5]), rel=0.01)


@pytest.mark.parametrize(("feedback", "beyond"), [(0.52, 0.0), (0.55, 0.001), (0.9, 0.01)])
def test_weights_that_were_moved_before_they_were_rounded_are_no_damage(
    feedback: float, beyond: float, weight: torch.Tensor
) -> None:
    codes = rounded(weight, feedback=feedback)
    assert ((codes.numbers - weight / codes.scale).abs() > 0.75).float().mean() > beyond
    assert misplaced(codes, weight) is None


def test_what_is_clipped_is_nearest(weight: torch.Tensor) -> None:
    scale = weight.abs().amax(1, keepdim=True) / 14
    codes = Codes((weight / scale).round().clamp(-8, 7), torch.arange(-8, 8).float(), scale, torch.zeros(1))
    assert misplaced(codes, weight) is None


GRIDS = {
    "E4M3": torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float(),
    "E2M1": torch.tensor([-6.0, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]),
    "INT8": torch.arange(-128.0, 128),
    "more than float16 holds": torch.tensor([0.0, 1, 2**-20 + 1, 70000]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_place_in_a_grid_is_where_a_search_finds_it(name: str) -> None:
    grid = GRIDS[name][GRIDS[name].isfinite()].unique()
    numbers = torch.cat((grid, grid.flip(0), torch.tensor([-0.0]))).view(-1, 1)
    assert torch.equal(place_in_grid(numbers, grid).long(), torch.searchsorted(grid, numbers))


VARIANTS = ["fp8", "fp8-block", "fp8-modelopt", "nvfp4", "nvfp4-modelopt", "awq", "awq-packed"]
GGUF = ["gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0"]


@pytest.mark.parametrize("variant", [*VARIANTS, *GGUF])
def test_numbers_times_scales_are_the_weights(variant: str, artifacts: Artifacts, demo: Source) -> None:
    path = artifacts[variant]
    weights: CodedWeights = (
        FolderWeights(open_subject(path, demo)) if path.is_dir() else open_gguf_subject(path, demo).weights
    )
    quantized = [name for name in weights.names() if weights.encoding(name)]
    assert len(quantized) >= 56
    for name in quantized[::5]:
        codes = weights.codes(name)
        assert codes is not None
        assert torch.isin(codes.numbers, codes.grid).all()
        torch.testing.assert_close(codes.numbers * codes.scale + codes.base, weights.read(name), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scheme", ["FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "W4A16", "W4A16_ASYM", "W8A16"])
def test_llmcompressors_rounding_is_nearest(scheme: str, demo: Source, tmp_path: Path) -> None:
    """Its scales are computed in BF16."""
    from llmcompressor import model_free_ptq

    ignore = ["lm_head", "model.embed_tokens", "re:.*block_sparse_moe.gate$"]
    model_free_ptq(DEMO, tmp_path / "out", scheme=scheme, ignore=ignore, max_workers=1)
    verification = verify(tmp_path / "out", demo, silent)
    assert not [finding for finding in verification.findings if finding.check.startswith("weights.")]
    assert len([error for error in verification.errors or () if error.encoding]) == 56


@pytest.mark.parametrize("columns", [128, 256])
def test_blocks_of_a_matrix_that_is_one_block_wide(columns: int) -> None:
    """FP8 in blocks of 128 x 128: every row of a block has its scale."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(256, columns, generator=generator) * torch.tensor([1.0, 8.0]).repeat_interleave(128)[:, None]
    blocks = source.abs().view(2, 128, columns // 128, 128).amax((1, 3)) / 448
    wide = blocks.repeat_interleave(128, 0).repeat_interleave(128, 1)
    parts = {"weight": (source / wide).to(torch.float8_e4m3fn), "weight_scale": blocks}
    scheme = Scheme("compressed-tensors", "float-quantized", {"strategy": "block", "block_structure": [128, 128]}, None)
    codes = codes_of(scheme, parts)
    assert codes is not None
    assert misplaced(codes, source) is None
    parts["weight"].view(torch.uint8)[200, 5] ^= 0x10
    found = codes_of(scheme, parts)
    assert found is not None
    worst = misplaced(found, source)
    assert worst is not None
    assert (worst.row, worst.column) == (200, 5)
