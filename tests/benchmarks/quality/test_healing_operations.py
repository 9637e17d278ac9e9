"""What is foretold of many tokens is what is counted there, and a product's count is known."""

import pytest
import torch

from benchmarks.quality.healing_operations import Traffic, counted, foretold


def test_both_are_linear_in_the_tokens() -> None:
    rows, found_by, hidden, inner = 70, 50, 32, 16
    assert foretold(hidden, inner, 16)(rows, found_by) == pytest.approx(
        counted(rows, found_by, hidden, inner), rel=1e-9
    )


def test_operations_of_a_token_are_those_of_its_products() -> None:
    """In units of a token times one of the expert's three matrices. The fit: h (2), W^T r, J^T (2), X (2). Two steps: h
    (2), J (3), J^T (3), and the last without J^T. Both weights' outputs: h (2), W."""
    hidden, inner = 32, 16
    more = counted(41, 41, hidden, inner)[0] - counted(40, 40, hidden, inner)[0]
    assert more == (7 + 2 * 8 + 5 + 2 * 3) * 2 * hidden * inner


def test_traffic_is_what_is_read_and_written() -> None:
    values = torch.zeros(10, 4)
    with Traffic() as traffic:
        _ = values[2:].T + 1  # of 32 numbers; the view itself moves nothing
    assert traffic.nbytes == 2 * 32 * 4
