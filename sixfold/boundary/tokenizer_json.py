"""tokenizer.json, parsed twice: as data, and by the library that tokenizes with it."""

from pathlib import Path
from typing import Any

from sixfold.boundary.json_text import read_json_file
from sixfold.errors import SixfoldError

_REMEDY = "copy tokenizer.json from the base model, or save the tokenizer again with transformers"


def read_tokenizer_json(path: Path) -> tuple[dict[str, Any], Any]:
    """(what the file says, the `tokenizers.Tokenizer` of it). Raises SixfoldError where either cannot be had."""
    from tokenizers import Tokenizer

    parsed = read_json_file(path)
    model = parsed.get("model") if isinstance(parsed, dict) else None
    if not isinstance(parsed, dict) or not isinstance(model, dict):
        raise SixfoldError(f"{path} is no tokenizer: it has no model", _REMEDY)
    try:
        return parsed, Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain exceptions, and panics that are no Exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise SixfoldError(f"{path} is no tokenizer that can be read ({reason})", _REMEDY) from None
