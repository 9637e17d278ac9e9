"""Errors are carried as GPTQ carries them, and every step lowers what rounding does to the outputs."""

from itertools import product

import pytest
import torch

from exporters.rounding import rounded_inputs
from exporters.rounding.compensate import compensate
from exporters.rounding.factor import Factor, factor, group_factors
from exporters.rounding.format import Format
from exporters.rounding.fp8 import Fp8
from exporters.rounding.int4 import Integers, Stored
from exporters.rounding.kquants import FORMS
from exporters.rounding.nvfp4 import Nvfp4, e2m1
from exporters.rounding.rounded_inputs import for_rounded_inputs, rounded
from sixfold.statistics.input_moments import Moments

COLUMNS = 256


def output_error(weight: torch.Tensor, values: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """tr(D M D^T) of D = values - weight, both [B, R, C]: float32 [B]."""
    off = values - weight
    return ((off @ moments) * off).sum((1, 2))


def correlated(columns: int, seed: int = 0) -> torch.Tensor:
    """Second moments of inputs whose channels differ in size and are related."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=draw) / columns**0.5 + torch.eye(columns)
    rows = torch.randn(4 * columns, columns, generator=draw) @ mixing * torch.logspace(-1, 0.5, columns)
    return rows.t() @ rows / len(rows)


def weight(rows: int = 24, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(1)) * 0.02


FORMATS: dict[str, Format] = {
    "nvfp4": Nvfp4(torch.tensor([2688 / 0.08])),
    "int4": Integers(15, Stored(()), 128),
    "fp8": Fp8(torch.bfloat16, 16),
    **FORMS,
}


class OneStep:
    """Integers at a step of 0.01: a format without anything to search."""

    group, span, levels = 1, None, None

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> None:
        return None

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        return torch.full((1, left.shape[0], 1, left.shape[2]), 0.01)

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        return held[:, :, None]

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (parameters[0],)

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return torch.mul((values / ready[0]).round(), ready[0], out=out)


def literal_gptq(rows: torch.Tensor, moments: torch.Tensor, step: float) -> torch.Tensor:
    """Optimal brain surgeon, a column at a time, in float64: rows [R, C]."""
    left, inverse = rows.double().clone(), moments.double().inverse()
    for column in range(rows.shape[1]):
        rounded = (left[:, column] / step).round() * step
        error = (left[:, column] - rounded) / inverse[0, 0]
        left[:, column:] -= error[:, None] * inverse[0]
        left[:, column] = rounded
        inverse = inverse[1:, 1:] - inverse[1:, :1] @ inverse[:1, 1:] / inverse[0, 0]
    return left


def test_the_factor_is_that_of_the_inverse() -> None:
    found = factor(torch.stack([correlated(40), correlated(40, seed=1)]))
    upper = found.upper.double()
    assert torch.equal(upper, upper.triu())
    assert torch.allclose(upper.mT @ upper @ found.moments.double(), torch.eye(40).double(), atol=1e-4)


def test_channels_that_carry_nothing_and_equal_channels_have_a_factor() -> None:
    moments = correlated(40)
    moments[3], moments[:, 3] = 0, 0
    moments[5], moments[:, 5] = moments[4], moments[:, 4]
    assert torch.isfinite(factor(moments[None]).upper).all()


def test_errors_are_carried_as_gptq_carries_them() -> None:
    known = factor(correlated(160)[None])
    rows = weight(columns=160)
    found = compensate(rows, known, OneStep(), sweeps=0)
    assert torch.allclose(found.values[0].double(), literal_gptq(rows[0], known.moments[0], 0.01), atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sweep_never_makes_outputs_worse_and_two_make_them_better(name: str) -> None:
    known, rows = factor(correlated(COLUMNS)[None]), weight()
    errors = [
        float(output_error(rows, compensate(rows, known, FORMATS[name], sweeps).values, known.moments))
        for sweeps in (0, 1, 2)
    ]
    assert errors[2] <= errors[1] <= errors[0]
    assert errors[2] < 0.97 * errors[0]


@pytest.mark.parametrize("name", FORMATS)
def test_compensated_outputs_have_well_below_the_error_of_nearest(name: str) -> None:
    known, rows = factor(correlated(COLUMNS)[None]), weight()
    plain = compensate(rows, factor(torch.eye(COLUMNS)[None]), FORMATS[name], sweeps=0)
    found = compensate(rows, known, FORMATS[name])
    errors = [float(output_error(rows, made.values, known.moments)) for made in (found, plain)]
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_levels_at_the_parameters_that_come_with_them(name: str) -> None:
    form, rows = FORMATS[name], weight()
    found = compensate(rows, factor(correlated(COLUMNS)[None]), form)
    for index in range(COLUMNS // form.group):
        part = found.values[:, :, index * form.group : (index + 1) * form.group].mT.contiguous()
        parameters = found.parameters[:, :, index, None]
        again = form.nearest(part, form.ready(parameters), torch.empty_like(part))
        assert torch.allclose(again, part, rtol=1e-6, atol=0)


def test_no_group_can_be_rounded_better_by_itself() -> None:
    """Where groups are single weights, sweeps end where no weight's neighboring level lowers the error."""
    known, rows = factor(correlated(24)[None]), weight(rows=3, columns=24)
    found = compensate(rows, known, OneStep(), sweeps=20).values
    least = output_error(rows, found, known.moments)
    for row, column, step in product(range(3), range(24), (-0.01, 0.01)):
        other = found.clone()
        other[0, row, column] += step
        assert output_error(rows, other, known.moments) >= least * (1 - 1e-5)


def test_experts_side_by_side_are_rounded_as_each_by_itself() -> None:
    moments = torch.stack([correlated(COLUMNS), correlated(COLUMNS, seed=3)])
    both = torch.cat([weight(), weight() * 1.5])
    form = Nvfp4(torch.tensor([2688 / 0.08, 2688 / 0.12]))
    known = factor(moments)
    together = compensate(both, known, form)
    for expert in (0, 1):
        one = slice(expert, expert + 1)
        alone = compensate(both[one], Factor(known.moments[one], known.upper[one]), Nvfp4(form.global_scale[one]))
        assert torch.allclose(together.values[one], alone.values, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_read_one_input_share_its_factor(name: str) -> None:
    known, rows = factor(correlated(COLUMNS)[None]), torch.cat([weight(rows=8), weight(rows=8) * 0.7])
    form, each = FORMATS[name], FORMATS[name]
    if isinstance(form, Nvfp4):
        form = Nvfp4(form.global_scale.expand(2))
    together = compensate(rows, known, form).values
    alone = torch.cat([compensate(one[None], known, each).values for one in rows])
    assert torch.allclose(together, alone, atol=1e-6)


def test_group_factors_are_those_of_the_diagonal_blocks() -> None:
    moments = factor(correlated(32)[None]).moments
    found = group_factors(moments, 8)
    for index in range(4):
        block = slice(8 * index, 8 * index + 8)
        inverse = found[0, index].t() @ found[0, index]
        assert torch.allclose(inverse, moments[0, block, block].inverse(), rtol=1e-3, atol=1e-4)


def test_e2m1_numbers_are_the_nearest_there_are() -> None:
    exact = torch.linspace(-7, 7, 4001)
    numbers = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    numbers = torch.cat([-numbers, numbers])
    nearest = numbers[(exact[:, None] - numbers).abs().argmin(1)]
    assert torch.equal((e2m1(exact) - exact).abs(), (nearest - exact).abs())


def test_what_is_made_for_rounded_inputs_errs_less_on_them() -> None:
    """As an engine computes it: inputs rounded to NVFP4, outputs against those of the original weight and input."""
    draw = torch.Generator().manual_seed(4)
    mixing = torch.randn(12, 64, generator=draw)  # channels tell much of one another, so noise can be averaged out
    rows = torch.randn(4000, 12, generator=draw) @ mixing
    moments = Moments(rows.t() @ rows / len(rows))
    rounding = torch.tensor([2688.0 / float(rows.abs().max())])
    weight = (torch.randn(32, 64, generator=draw) * 0.02).bfloat16()
    known, target = for_rounded_inputs(moments, rows[:128], rounding, [weight])
    form = Nvfp4(torch.tensor([2688 / float(weight.abs().max())]))
    fresh = torch.randn(4000, 12, generator=draw) @ mixing
    expected, read = fresh @ weight.float().t(), rounded(fresh, rounding)
    plain = compensate(weight.float()[None], factor(moments.mean[None]), form).values[0]
    made = compensate(target[None], known, form).values[0]
    errors = [float((read @ values.t() - expected).square().sum()) for values in (made, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_what_channels_have_in_common_describes_their_rounding_better_than_few_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(6)
    mixing = torch.randn(12, 64, generator=draw)
    rows, fresh = (torch.randn(4000, 12, generator=draw) @ mixing for _ in range(2))
    moments, scale = Moments(rows.t() @ rows / len(rows)), torch.tensor([2688.0 / float(rows.abs().max())])
    weight = torch.randn(32, 64, generator=draw) * 0.02
    read, expected = rounded(fresh, scale), fresh @ weight.t()

    def left(sampled: int) -> float:
        _, target = for_rounded_inputs(moments, rows[:sampled], scale, [weight])
        return float((read @ target.t() - expected).square().sum())

    few, many = left(32), left(4000)
    monkeypatch.setattr(rounded_inputs, "_ROWS", 0)
    alone = left(32)
    assert few < 0.98 * alone
    assert few < 1.02 * many  # nearly as good as if all rows had been sampled


def test_massive_activations_are_not_laid_on_other_channels() -> None:
    """A token in five hundred holds nearly all of the input's power, and the sample has none of them."""
    draw = torch.Generator().manual_seed(5)
    rows = torch.randn(4000, 64, generator=draw) * 0.2
    rows[::500] = 3 * rows[0]
    rows[::500, 5] = 3000.0
    weight = torch.randn(32, 64, generator=draw) * 0.02
    weight[:, 5] *= 10
    moments, rounding = Moments(rows.t() @ rows / len(rows)), torch.tensor([2688.0 / 3000.0])
    known, target = for_rounded_inputs(moments, rows[510:638], rounding, [weight])
    assert torch.equal(target, weight)
    assert torch.equal(known.moments, factor(moments.mean[None], moments.damping).moments)
