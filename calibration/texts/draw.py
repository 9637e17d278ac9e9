"""Windows of token ids, drawn from texts by seed: which rows, in which order, and what each window is made of."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from pathlib import PurePath
from random import Random
from typing import Any

from calibration.texts.conversations import Piece, Unreadable
from calibration.texts.corpus import Texts
from calibration.texts.rows import Joined, Rows
from sixfold.errors import SixfoldError
from sixfold.recipes.recipe import Calibration
from sixfold.texts.chat_template import render

BYTES_PER_TOKEN = 4  # about; plain text is cut into pieces of about one window's length
_AHEAD = 64
"""Rows that are read together: those of one parquet row group are then decoded once."""
_LONG = 6
"""Characters per wanted token that are tokenized of a long text at first."""
_MARGIN = 64
"""Tokens beyond the wanted ones: near the place where a text was cut, its ids may not be those of the whole."""

Owner = tuple[int, int]
"""Index of the text, and row in it."""


@dataclass(frozen=True)
class Window:
    """owners: for each id, where it came from."""

    ids: tuple[int, ...]
    owners: tuple[Owner, ...]

    def parts(self) -> Iterator[tuple[Owner, list[int]]]:
        """Adjacent ids that came from one row."""
        for owner, pairs in groupby(zip(self.owners, self.ids, strict=True), key=lambda pair: pair[0]):
            yield owner, [token for _, token in pairs]


@dataclass
class Tally:
    """Record of the drawing. rendered: ways of rendering -> conversations. unusable: index of the text -> why rows of
    it were skipped."""

    rendered: Counter[str] = field(default_factory=Counter)
    unusable: dict[int, list[str]] = field(default_factory=dict)


class Domain:
    """Windows of the texts of one domain, one after the other.

    Rows are shuffled with the profile's seed and the domain's name, and joined; what a row has beyond one window comes
    last. Each window starts with BOS where the tokenizer would put one. Of a domain that is named by a path only the
    last part counts, without a suffix: the same texts elsewhere are drawn alike.
    """

    def __init__(
        self, name: str, texts: Sequence[Texts], profile: Calibration, tokenizer: Any, bos: int | None, tally: Tally
    ) -> None:
        self._texts = [(index, text) for index, text in enumerate(texts) if text.domain == name]
        self.name = name
        self.weight = sum((text.weight for _, text in self._texts), Fraction())
        self.drawn, self.exhausted = 0, False
        self._tokenizer, self._bos, self._tally = tokenizer, bos, tally
        self._size = profile.length - (bos is not None)
        parts = [text.rows(BYTES_PER_TOKEN * profile.length) for _, text in self._texts]
        self._firsts = [sum(map(len, parts[:i])) for i in range(len(parts))]
        self._rows: Rows = Joined(parts)
        self._order = array("Q", range(len(self._rows)))
        Random(f"{profile.seed} {PurePath(name).stem}").shuffle(self._order)

    def windows(self) -> Iterator[Window]:
        ids: list[int] = []
        owners: list[Owner] = []
        for owner, new in self._first_things_first():
            ids += new
            owners += [owner] * len(new)
            while len(ids) >= self._size:
                start, source = ((), ()) if self._bos is None else ((self._bos,), (owners[0],))
                yield Window((*start, *ids[: self._size]), (*source, *owners[: self._size]))
                del ids[: self._size], owners[: self._size]

    def _first_things_first(self) -> Iterator[tuple[Owner, list[int]]]:
        """At most one window of every row, then what is left: one long conversation must not fill many windows."""
        rest = array("Q")
        for number, piece in self._read(self._order):
            ids = self._encode(self._text(piece), self._size)
            yield self._owner(number), ids[: self._size]
            if len(ids) > self._size:
                rest.append(number)
        for number, piece in self._read(rest):
            yield self._owner(number), self._encode(self._text(piece, again=True))[self._size :]

    def _owner(self, number: int) -> Owner:
        place = max(i for i, first in enumerate(self._firsts) if first <= number)
        return self._texts[place][0], number - self._firsts[place]

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Piece]]:
        for start in range(0, len(numbers), _AHEAD):
            some = list(numbers[start : start + _AHEAD])
            for number, piece in zip(some, self._rows.read(some), strict=True):
                if not isinstance(piece, Unreadable):
                    yield number, piece
                    continue
                index = self._owner(number)[0]
                if not dict(self._texts)[index].forgiving:
                    raise SixfoldError(piece.reason, "correct it or take it out")
                self._tally.unusable.setdefault(index, []).append(piece.reason)

    def _text(self, piece: Piece, again: bool = False) -> str:
        if isinstance(piece, str):
            return piece
        text, how = render(self._tokenizer, piece)
        if not again:
            self._tally.rendered[how] += 1
        # Every window has its own BOS.
        return text if self._bos is None else text.removeprefix(self._tokenizer.bos_token)

    def _encode(self, text: str, wanted: int | None = None) -> list[int]:
        """All ids, or of a long text as many as are wanted and some more."""
        if wanted is not None:
            characters = _LONG * (wanted + _MARGIN)
            while characters < len(text):
                ids = self._encode(text[:characters])
                if len(ids) >= wanted + _MARGIN:
                    return ids
                characters *= 2
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def draw(domains: Sequence[Domain], samples: int) -> Iterator[Window]:
    """At most `samples` windows: each time from the domain that is furthest behind its share, as Sainte-Laguë's method
    assigns seats; others take the share of those that run out."""
    streams = {domain: domain.windows() for domain in domains}
    found = 0
    while streams and found < samples:
        domain = min(streams, key=lambda d: (2 * d.drawn + 1) / d.weight)
        window = next(streams[domain], None)
        if window is None:
            domain.exhausted = True
            del streams[domain]
            continue
        domain.drawn += 1
        found += 1
        yield window
