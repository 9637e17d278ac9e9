"""Two people's changes of one card, line by line."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise


def merged(base: str, ours: str, theirs: str) -> str:
    """What was changed from `base` in either text. Where both changed the same lines, both versions are kept, ours
    first; lines that one removed and the other kept are gone."""
    before, here, there = (text.splitlines(keepends=True) for text in (base, ours, theirs))
    kept_here, kept_there = _matches(before, here), _matches(before, there)
    stable = [n for n in range(len(before)) if n in kept_here and n in kept_there]
    ends = (len(before), len(here), len(there))
    anchors = [(-1, -1, -1), *((n, kept_here[n], kept_there[n]) for n in stable), ends]
    lines: list[str] = []
    for (b, h, t), (next_b, next_h, next_t) in pairwise(anchors):
        lines += _resolved(before[b + 1 : next_b], here[h + 1 : next_h], there[t + 1 : next_t])
        lines += before[next_b : next_b + 1]
    return "".join(lines)


def _matches(before: Sequence[str], after: Sequence[str]) -> dict[int, int]:
    """Number of a line -> its number after, of those that stayed."""
    return dict(_pairs(SequenceMatcher(None, before, after, autojunk=False)))


def _pairs(matcher: "SequenceMatcher[str]") -> Iterator[tuple[int, int]]:
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            yield block.a + offset, block.b + offset


def _resolved(before: list[str], here: list[str], there: list[str]) -> list[str]:
    """Between two lines that stayed in both."""
    if here == there or there == before:
        return here
    if here == before:
        return there
    together: list[str] = []
    for _, h, h_end, t, t_end in SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        same = here[h:h_end] == there[t:t_end]
        together += here[h:h_end] if same else here[h:h_end] + there[t:t_end]
    return together
