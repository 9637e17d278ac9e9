"""Sums over processes, against a loop over what each of them has."""

from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

from sixfold.runner import process_group
from sixfold.runner.process_group import Team

SIZE = 3
SHAPES = [(), (2,), (1001,), (4, 5, 6)]


def given(rank: int) -> list[torch.Tensor]:
    """What a process has: the order in which float32 numbers of these are added decides the last bits."""
    random = torch.Generator().manual_seed(rank)
    floats = [torch.randn(shape, generator=random) * 10**rank for shape in SHAPES]
    return [*floats, torch.tensor([2**62, rank])]


def member(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=SIZE)
    team, found = Team(rank, SIZE), given(rank)
    team.add(*found)
    torch.save((found, team.tell(rank)), folder / str(rank))
    distributed.destroy_process_group()


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[torch.Tensor], int]]:
    """Of each process: its tensors after `add`, and what it was told of the leader's rank."""
    monkeypatch.setattr(process_group, "_PIECE", 100)  # more than one of the longest
    context = get_context("fork")  # with torch imported, and the number of above
    members = [context.Process(target=member, args=(rank, tmp_path), daemon=True) for rank in range(SIZE)]
    for process in members:
        process.start()
    for process in members:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    return [torch.load(tmp_path / str(rank)) for rank in range(SIZE)]


def test_all_have_the_sum_in_the_order_of_ranks(results: list[tuple[list[torch.Tensor], int]]) -> None:
    for number, tensor in enumerate(given(0)):
        want = tensor
        for rank in range(1, SIZE):
            want = want + given(rank)[number]
        for found, _ in results:
            assert torch.equal(found[number], want)


def test_the_order_decides_the_bits() -> None:
    first, second, third = (given(rank)[2] for rank in range(SIZE))
    assert not torch.equal((first + second) + third, first + (second + third))


def test_all_are_told_what_the_leader_knows(results: list[tuple[list[torch.Tensor], int]]) -> None:
    assert [told for _, told in results] == [0] * SIZE
