from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sixfold.runner.attention_function import Attention, attention_around
from tests.every_family import tiny_config


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


def test_a_familys_own_function_is_around_while_open() -> None:
    """HY-V4's attention has sinks, and no function that families share."""
    model: Any = AutoModelForCausalLM.from_config(tiny_config("hy_v4", num_hidden_layers=2)).eval()
    seen: list[str] = []

    def counting(name: str) -> Callable[[Attention], Attention]:
        def around(function: Attention) -> Attention:
            def counted(*given: Any, **more: Any) -> Any:
                seen.append(name)
                return function(*given, **more)

            return counted

        return around

    ids = torch.arange(5)[None]
    with torch.no_grad():
        plain = model(ids).logits
        with attention_around("eager", counting("one")):
            with attention_around("eager", counting("two")):
                assert torch.equal(model(ids).logits, plain)
            model(ids)
        model(ids)
    assert seen == ["two", "one"] * 2 + ["one"] * 2
