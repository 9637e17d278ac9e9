"""Two people's changes of one card."""

import random

import pytest

from publishing.merge import merged

BASE = "".join(f"line {n}\n" for n in range(20))


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "both"),
    [
        ("a\nb\nc\n", "a\nb\nc\n", "a\nb\nc\n", "a\nb\nc\n"),
        ("a\nb\nc\n", "a\nB\nc\n", "a\nb\nc\n", "a\nB\nc\n"),
        ("a\nb\nc\n", "a\nb\nc\n", "a\nb\n", "a\nb\n"),
        ("a\nb\nc\n", "ours\na\nb\nc\n", "a\nb\nc\ntheirs\n", "ours\na\nb\nc\ntheirs\n"),
        ("a\nb\nc\n", "a\nours\nc\n", "a\ntheirs\nc\n", "a\nours\ntheirs\nc\n"),
        ("a\nb\nc\n", "a\nsame\nc\n", "a\nsame\nc\n", "a\nsame\nc\n"),
        ("", "ours\n", "theirs\n", "ours\ntheirs\n"),
        ("a\n", "a\n\nours\n", "a\n\n## Theirs\n", "a\n\nours\n## Theirs\n"),
    ],
)
def test_by_hand(base: str, ours: str, theirs: str, both: str) -> None:
    assert merged(base, ours, theirs) == both


@pytest.mark.parametrize("seed", range(50))
def test_changes_at_different_places_are_all_there(seed: int) -> None:
    """Of twenty lines each writer replaces, removes or adds some; lines between keep the two apart."""
    draw = random.Random(seed)
    places = sorted(draw.sample(range(0, 20, 2), 6))
    changes = {n: draw.choice(["replaced\n", "", f"line {n}\nadded {n}\n"]) for n in places}
    writers = {n: draw.choice(["ours", "theirs", "both"]) for n in places}

    def text(*who: str) -> str:
        lines = BASE.splitlines(keepends=True)
        return "".join(changes[n] if writers.get(n) in who else line for n, line in enumerate(lines))

    assert merged(BASE, text("ours", "both"), text("theirs", "both")) == text("ours", "theirs", "both")
