"""A changed code of a compensated weight is found by what its row's outputs would have it be."""

import torch

from exporters.numerics.compensated import nvfp4_groups
from exporters.numerics.nvfp4 import quantize_group
from exporters.rounding.factor import factor
from verification.reading.stored_codes import Codes, _float4
from verification.weights import compensated_codes
from verification.weights.code_check import Misplaced
from verification.weights.compensated_codes import Targets

ROWS, COLUMNS = 64, 256


def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, its damped moments, and what an export with errors compensated holds of it."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2000, COLUMNS, generator=draw) @ torch.randn(COLUMNS, COLUMNS, generator=draw)
    known = factor((rows.t() @ rows / 2000)[None])
    weight = (torch.randn(ROWS, COLUMNS, generator=draw) * 0.02).bfloat16()
    (packed,), whole = nvfp4_groups([[weight]], [["w"]], known)[0]
    return weight.float(), known.moments[0], packed.packed, packed.scale, whole


def misplaced(codes: Codes, held: torch.Tensor, source: torch.Tensor, moments: torch.Tensor) -> Misplaced | None:
    (found,) = compensated_codes.misplaced(codes, held, source, moments[None])
    return found


def codes_of(packed: torch.Tensor, scale: torch.Tensor, whole: torch.Tensor) -> tuple[Codes, torch.Tensor]:
    codes = _float4(packed, scale, whole)
    return codes, codes.numbers * codes.scale


def test_a_sound_weight_raises_nothing() -> None:
    weight, moments, *stored = made()
    codes, held = codes_of(*stored)
    fine = codes.numbers.abs() < 1.5  # levels half a scale apart
    assert (((held - weight) / codes.scale).abs()[fine] > 0.3).float().mean() > 0.1  # many codes are not the nearest
    assert misplaced(codes, held, weight, moments) is None


def test_a_flipped_sign_is_named() -> None:
    weight, moments, packed, scale, whole = made()
    codes, _ = codes_of(packed, scale, whole)
    row, column = divmod(int(codes.numbers.abs().argmax()), COLUMNS)
    packed[row, column // 2] ^= 0x80 if column % 2 else 0x08
    codes, held = codes_of(packed, scale, whole)
    found = misplaced(codes, held, weight, moments)
    assert found is not None
    assert (found.row, found.column) == (row, column)


def test_a_scale_of_twice_the_size_is_found_in_its_row() -> None:
    weight, moments, packed, scale, whole = made()
    scale.view(torch.uint8)[7, 3] += 8  # the lowest bit of the exponent
    codes, held = codes_of(packed, scale, whole)
    found = misplaced(codes, held, weight, moments)
    assert found is not None
    assert found.row == 7


def test_nothing_is_said_of_a_weight_that_was_rounded_to_nearest() -> None:
    """As some types are in a file whose others were compensated: no code is where compensation would have it."""
    weight, moments, *_ = made()
    (packed,), whole = quantize_group([weight.bfloat16()], ["w"])
    row, column = divmod(int(weight.abs().argmax()), COLUMNS)
    packed.packed[row, column // 2] ^= 0x80 if column % 2 else 0x08
    codes, held = codes_of(packed.packed, packed.scale, whole)
    assert misplaced(codes, held, weight, moments) is None


def test_nothing_is_said_of_a_row_that_writes_massive_activations() -> None:
    weight, moments, packed, scale, whole = made()
    row, column = divmod(int(codes_of(packed, scale, whole)[0].numbers.abs().argmax()), COLUMNS)
    packed[row, column // 2] ^= 0x80 if column % 2 else 0x08
    codes, _ = codes_of(packed, scale, whole)
    massive = weight.clone()
    massive[row] *= 4
    enlarged = Codes(**{**vars(codes), "scale": codes.scale * (1 + 3 * (torch.arange(ROWS) == row))[:, None]})
    assert misplaced(enlarged, enlarged.numbers * enlarged.scale, massive, moments) is None


def test_matrices_under_one_another_are_judged_each_by_its_own_input() -> None:
    """The second has a flipped sign, the third reads an input that nothing is known of."""
    weight, moments, packed, scale, whole = made()
    row, column = divmod(int(codes_of(packed, scale, whole)[0].numbers.abs().argmax()), COLUMNS)
    flipped = packed.clone()
    flipped[row, column // 2] ^= 0x80 if column % 2 else 0x08
    codes, held = codes_of(torch.cat([packed, flipped, flipped, packed]), scale.repeat(4, 1), whole)
    known = {"a": moments, "b": moments, "d": moments}
    found = dict(Targets(known.get).misplaced(["a", "b", "c", "d"], codes, held, weight.repeat(4, 1)))
    assert found.keys() == {"b"}
    assert (found["b"].row, found["b"].column) == (row, column)
