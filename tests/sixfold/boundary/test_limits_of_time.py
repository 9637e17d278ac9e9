"""Expressions and programs from files are stopped, and what is not stopped is left as it was."""

import time

import pytest

from sixfold.boundary.patterns import Pattern, pattern
from sixfold.boundary.time_limit import time_limit
from sixfold.errors import SixfoldError


def test_an_expression_that_backtracks() -> None:
    slow = Pattern(r"(a|aa)+$")
    started = time.monotonic()
    for _ in range(100):  # as many names as ask, the time is spent once
        with pytest.raises(SixfoldError, match="takes more than"):
            slow.match("a" * 60 + "b")
    assert time.monotonic() - started < 60  # of a busy machine; the limit counts the time of the process


def test_expressions_as_python_reads_them() -> None:
    assert pattern(r"self_attn\.").search("model.layers.0.self_attn.q_proj")
    assert not pattern(r"self_attn\.").match("model.layers.0.self_attn.q_proj")
    assert pattern(r"(?!.*experts).*gate$").match("model.layers.0.mlp.gate")
    assert not pattern(r"(?!.*experts).*gate$").match("model.layers.0.mlp.experts.0.gate")
    for text in ("(", "[a", "(?P<n>", "x" * 5000):
        with pytest.raises(ValueError):
            pattern(text)


def _loop() -> None:
    with time_limit(0.2, "the template", "correct it"):
        while True:
            try:
                sum(range(100))
            except Exception:  # nothing that a program catches keeps it running
                continue


def test_a_program_that_loops() -> None:
    started = time.monotonic()
    with pytest.raises(SixfoldError, match=r"the template takes more than 0\.2 seconds; correct it"):
        _loop()
    assert time.monotonic() - started < 5


def test_a_program_that_ends() -> None:
    for _ in range(200):
        with time_limit(1.0, "it", ""):
            pass
    with pytest.raises(KeyError), time_limit(5.0, "it", ""):
        raise KeyError
    time.sleep(0.01)  # a limit that was armed for what has ended stops nothing
