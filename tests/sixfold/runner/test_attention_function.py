from typing import Any

import pytest

from sixfold.runner.attention_function import Attention, attention_around


def test_what_was_there_is_called_through_and_comes_back() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    given: list[Attention] = []

    def around(function: Attention) -> Attention:
        given.append(function)
        return lambda *arguments, **more: (arguments,)

    with attention_around("sdpa", around):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"](1, 2) == ((1, 2),)
    with pytest.raises(ZeroDivisionError), attention_around("sdpa", lambda function: function):
        raise ZeroDivisionError
    assert given == [before]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


def test_families_that_attend_by_themselves_are_left_alone() -> None:
    def around(function: Attention) -> Any:
        raise AssertionError("there is nothing to go around")

    with attention_around("no such attention", around):
        pass
