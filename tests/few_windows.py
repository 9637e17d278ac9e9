"""Held-out text for tests that ask whether something holds, not how much of it there is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sixfold.texts import held_out_text as heldout
from sixfold.texts.held_out_text import Windows

LENGTH = 192
"""Tokens of a window."""


@contextmanager
def few_windows(where: str) -> Iterator[None]:
    """While open, the function `held_out` at the dotted name `where` gives the beginning of every eighth window of each
    domain."""
    whole = heldout.held_out

    def few(*arguments: Any) -> Windows:
        found = whole(*arguments)
        chosen = [i for i, domain in enumerate(found.domains) if found.domains[:i].count(domain) % 8 == 0]
        return Windows(
            tuple(found.ids[i][:LENGTH] for i in chosen),
            tuple(found.domains[i] for i in chosen),
            f"{found.digest}/8/{LENGTH}",
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, few)
        yield
