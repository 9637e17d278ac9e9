"""Regular expressions from files, which may be written to never end: matched within a limit of time.

`regex` is used for what Python's own module cannot do, to stop. It understands the same expressions; a linear-time
engine would not, and lookahead is common in what other tools write.
"""

import time
from functools import lru_cache
from typing import Any

import regex

from sixfold.errors import SixfoldError

_SECONDS = 1.0
"""For all slow matches of one expression together."""

_SLOW = 0.01
"""Of one name; ordinary ones take microseconds, and of these there may be as many as a model has names."""

_LONGEST = 4096


class Pattern:
    """An expression and the time that is left to it."""

    def __init__(self, text: str) -> None:
        """Raises ValueError where it is no regular expression."""
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text)} characters, at most {_LONGEST} are read")
        try:
            self._compiled = regex.compile(text)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
        self.text = text
        self._left = _SECONDS

    def search(self, name: str) -> bool:
        """Whether it matches anywhere in `name`. Raises SixfoldError where that takes too long."""
        return self._run(self._compiled.search, name)

    def match(self, name: str) -> bool:
        """The same at the beginning of `name`."""
        return self._run(self._compiled.match, name)

    def _run(self, function: Any, name: str) -> bool:
        started = time.perf_counter()
        try:
            if self._left <= 0:
                raise TimeoutError
            found = function(name, timeout=self._left) is not None
        except TimeoutError:
            self._left = 0.0
            shown = self.text if len(self.text) < 80 else self.text[:77] + "..."
            raise SixfoldError(
                f"the regular expression {shown!r} takes more than {_SECONDS:g} seconds to match names", "simplify it"
            ) from None
        taken = time.perf_counter() - started
        self._left -= taken if taken > _SLOW else 0.0
        return bool(found)


@lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """Raises ValueError where `text` is no regular expression."""
    return Pattern(text)
