"""The checkpoint's own tokenizer, or a sentence that says what is missing."""

from pathlib import Path

import pytest

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SixfoldError, match=r"cannot be loaded \(no file there holds one\).*copy tokenizer.json"):
        load_tokenizer(tmp_path)
