import pytest
import torch

from calibration.forward_pass.accumulate import Accumulator
from sixfold.statistics.moments import unpack

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")


def feed(
    accumulator: Accumulator,
    rows: torch.Tensor,
    expert_of: torch.Tensor,
    ranks: torch.Tensor,
    per: int,
    at_once: bool,
) -> None:
    experts = len(accumulator.count)
    for start in range(0, len(rows), per):
        part = slice(start, start + per)
        if at_once:
            order = expert_of[part].argsort(stable=True)
            counts = torch.bincount(expert_of[part], minlength=experts)
            accumulator.add(rows[part][order], counts, ranks[part][order])
        else:
            for expert in range(experts):
                mine = expert_of[part] == expert
                accumulator.add_one(expert, rows[part][mine], ranks[part][mine])


@pytest.mark.parametrize("at_once", [True, False])
def test_sums_extremes_and_the_rows_of_lowest_rank(at_once: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 5, generator=generator).bfloat16()
    expert_of = torch.randint(0, 3, (300,), generator=generator)
    expert_of[expert_of == 2] = 3  # the third of four sees nothing
    expert_of[7:] = torch.where(expert_of[7:] == 1, 0, expert_of[7:])  # the second sees a few at most
    ranks = torch.randperm(300, generator=generator)
    for per in (1, 7, 300):
        accumulator = Accumulator(4, 5, 8, CPU)
        feed(accumulator, rows, expert_of, ranks, per, at_once)
        found = accumulator.finish(stacked=True)
        for expert in range(4):
            mine = (expert_of == expert).nonzero()[:, 0]
            want = rows[mine].double()
            assert found["count"][expert] == len(mine)
            torch.testing.assert_close(found["sum_sq"][expert], want.square().sum(0).float())
            torch.testing.assert_close(found["sum_abs"][expert], want.abs().sum(0).float())
            largest = want.abs().amax(0).float() if len(mine) else torch.zeros(5)
            assert torch.equal(found["abs_max"][expert], largest)
            kept = mine[ranks[mine].argsort()][:8]
            assert found["sampled"][expert] == len(kept)
            assert torch.equal(found["sample"][expert, : len(kept)], rows[kept])
            assert not found["sample"][expert, len(kept) :].any()


@pytest.mark.parametrize("at_once", [True, False])
def test_second_moments_are_those_of_each_experts_rows(at_once: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 6, generator=generator).bfloat16()
    expert_of = torch.randint(0, 3, (300,), generator=generator)
    expert_of[expert_of == 1] = 2  # the second of three sees nothing
    accumulator = Accumulator(3, 6, 8, CPU, moments=True)
    feed(accumulator, rows, expert_of, torch.randperm(300, generator=generator), 7, at_once)
    found = accumulator.finish(stacked=True)
    for expert in range(3):
        want = rows[expert_of == expert].double()
        moments = unpack(found["moments"][expert], found["sum_sq"][expert])
        torch.testing.assert_close(moments, (want.t() @ want).float(), rtol=1e-3, atol=0.1)
    assert accumulator.common().keys() == {"moments_common", "moments_chance"}


def test_a_plain_site_has_no_expert_dimension() -> None:
    accumulator = Accumulator(1, 3, 2, CPU)
    accumulator.add(torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([1]), torch.tensor([5]))
    found = accumulator.finish(stacked=False)
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "count": (),
        "sum_sq": (3,),
        "sum_abs": (3,),
        "abs_max": (3,),
        "sample": (2, 3),
        "sampled": (),
    }
    assert found["sum_sq"].tolist() == [1.0, 4.0, 0.0]


def test_many_small_batches_lose_nothing() -> None:
    """Float32 sums over batches would stop growing: 2^24 + 1 is 2^24 there."""
    accumulator = Accumulator(1, 1, 1, CPU)
    ranks = torch.tensor([0])
    accumulator.add(torch.tensor([[4096.0]]), torch.tensor([1]), ranks)
    for _ in range(64):
        accumulator.add(torch.tensor([[1.0]]), torch.tensor([1]), ranks + 1)
    assert accumulator.finish(stacked=False)["sum_sq"].item() == 4096.0**2 + 64
