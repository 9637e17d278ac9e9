"""The checkpoint's own tokenizer."""

from pathlib import Path
from typing import Any

from sixfold.errors import SixfoldError


def load_tokenizer(folder: Path) -> Any:
    """Raises SixfoldError where the checkpoint's folder has no tokenizer that transformers can read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every tokenizer class raises its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise SixfoldError(
            f"the tokenizer in {folder} cannot be loaded ({reason})",
            "without one no text can be read: copy tokenizer.json and tokenizer_config.json from the base model",
        ) from error
