"""Turns at a GPU, which need none to be taken."""

from threading import Event, Thread
from typing import ClassVar

import pytest
import torch

from exporters.rounding.device import at_device, moved, sent_home, turn
from tests.pretended_device import pretended

GPU = torch.device("cuda")


def test_what_has_the_turn_takes_it_again_and_others_wait() -> None:
    """A batch that is compensated may hold weights of which nothing is known, which are rounded to nearest."""
    within, over, waited = Event(), Event(), Event()

    def nested() -> None:
        with turn(GPU), turn(GPU):
            within.set()
            over.wait(10)

    def other() -> None:
        with turn(GPU):
            waited.set()

    threads = [Thread(target=work, daemon=True) for work in (nested, other)]
    threads[0].start()
    assert within.wait(10)
    threads[1].start()
    assert not waited.wait(0.05)
    over.set()
    assert waited.wait(10)


def test_without_a_gpu_weights_are_worked_on_where_they_are() -> None:
    weight = torch.ones(3)
    (found,) = at_device([weight], lambda weights: weights)
    assert found is weight


@pytest.mark.parametrize(("free", "kept", "same"), [(60, 0, True), (10, 60, True), (40, 5, False)])
def test_a_weight_is_moved_once_while_less_than_half_of_a_gpu_is_in_use(
    free: int, kept: int, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 bytes. kept: by PyTorch, of what was used before."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 100))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 100 - free)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 100 - free - kept)
    weight = torch.ones(3)
    with pretended() as device:
        assert (moved(weight, device) is moved(weight, device)) == same


class Watched:
    """An event that says when it was waited for, and whether another could have had the turn then."""

    waited: ClassVar[list[bool]] = []

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        free = Event()

        def other() -> None:
            with turn(GPU):
                free.set()

        Thread(target=other, daemon=True).start()
        self.waited.append(free.wait(10))


def test_what_is_sent_home_in_a_turn_is_waited_for_when_others_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, behind the outermost turn, and only where something is on its way."""
    with pretended() as device:
        monkeypatch.setattr("torch.cuda.Event", Watched)
        monkeypatch.setattr(Watched, "waited", [])
        values = torch.arange(3.0, device=device)
        with turn(device):
            with turn(device):
                found = sent_home(values)
            assert Watched.waited == []
        assert Watched.waited == [True]
        with turn(device):
            pass
        assert Watched.waited == [True]
    assert not found.is_cuda
    assert found.tolist() == [0, 1, 2]


def test_without_a_turn_it_is_at_home_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended() as device:
        monkeypatch.setattr("torch.cuda.Event", None)
        assert sent_home(torch.ones(2, device=device)).tolist() == [1, 1]
