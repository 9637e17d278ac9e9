"""What formats share is made once, for as long as its weight is held."""

import gc
import threading
import time
import weakref

import pytest
import torch

from exporters.shared_by_formats import once


def test_two_formats_at_the_same_time_get_what_one_of_them_makes() -> None:
    weight, calls = torch.ones(4), []
    both = threading.Barrier(2)

    def make() -> torch.Tensor:
        calls.append(1)
        time.sleep(0.1)  # the other asks meanwhile
        return weight * 2

    def format_() -> None:
        both.wait()
        found.append(once(weight, "doubled", make))

    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=format_) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert found[0] is found[1]
    assert torch.equal(found[0], torch.full((4,), 2.0))
    assert once(weight, "tripled", lambda: weight * 3)[0] == 3
    # An equal weight is another.
    assert once(torch.ones(4), "doubled", lambda: None) is None


def test_it_goes_with_the_weight() -> None:
    weight = torch.ones(4)
    made = weakref.ref(once(weight, "doubled", lambda: torch.zeros(4)))
    assert made() is not None
    del weight
    gc.collect()
    assert made() is None


def test_one_that_fails_is_tried_again() -> None:
    weight = torch.ones(4)

    def fail() -> None:
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        once(weight, "doubled", fail)
    assert once(weight, "doubled", lambda: 3) == 3
