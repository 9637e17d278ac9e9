import json
import re
from pathlib import Path

import pytest

from calibration.texts.corpus import TEXTS, licenses
from calibration.texts.rows import JsonRows
from sixfold.texts.chat_template import Chat

FILES = sorted(p for part in ("calibration", "heldout") for p in (TEXTS / part).rglob("*") if p.is_file())
ALLOWED = ("MIT", "Apache-2.0", "PSF-2.0", "BSD-3-Clause", "public domain")
DOMAINS = {"code", "english", "languages", "maths", "norwegian", "tools"}


def grams(path: Path) -> set[str]:
    """Every thirteen consecutive words: what contamination checks usually compare."""
    words = re.findall(r"\w+", path.read_text(encoding="utf-8").lower())
    return {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}


def test_every_file_is_named_with_a_permissive_license_that_is_here() -> None:
    known = licenses()
    assert set(known) == {path.relative_to(TEXTS).as_posix() for path in FILES}
    for name, license in known.items():
        assert license.startswith(ALLOWED), name
        for text in re.findall(r"\((licenses/[^)]+)\)", license):
            assert (TEXTS / text).is_file(), text
        if not license.startswith(("public domain", "Apache-2.0")):
            assert "(licenses/" in license, name


def test_both_parts_have_every_domain_and_stay_small() -> None:
    for part in ("calibration", "heldout"):
        assert {path.name for path in (TEXTS / part).iterdir()} == DOMAINS
    assert sum(path.stat().st_size for path in FILES) < 4_000_000


def test_heldout_shares_no_thirteen_words_with_calibration() -> None:
    seen = {gram for path in FILES if path.is_relative_to(TEXTS / "calibration") for gram in grams(path)}
    assert len(seen) > 100_000
    for path in FILES:
        if path.is_relative_to(TEXTS / "heldout"):
            assert not grams(path) & seen, path


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".jsonl"], ids=lambda p: p.name)
def test_conversations_are_what_chat_templates_take(path: Path) -> None:
    rows = JsonRows(path)
    for piece in rows.read(range(len(rows))):
        assert isinstance(piece, Chat)
        offered = {tool["function"]["name"] for tool in piece.tools}
        for message in piece.messages:
            assert message["role"] in ("system", "user", "assistant", "tool")
            assert isinstance(message["content"], str)
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in offered
                assert isinstance(call["function"]["arguments"], dict)
        assert piece.messages[-1]["role"] == "assistant"
        assert json.dumps(piece.messages)
