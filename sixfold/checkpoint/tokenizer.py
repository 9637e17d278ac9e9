"""The checkpoint's own tokenizer."""

from pathlib import Path
from typing import Any

from sixfold.boundary.json_text import read_json_file
from sixfold.boundary.tiktoken_model import tiktoken_tokenizer
from sixfold.errors import SixfoldError


def load_tokenizer(folder: Path) -> Any:
    """Raises SixfoldError where the checkpoint's folder has no tokenizer that transformers can read."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    ranked = None if (folder / "tokenizer.json").is_file() else tiktoken_tokenizer(folder)
    if ranked is not None:
        return PreTrainedTokenizerFast(tokenizer_object=ranked, **_stated(folder))
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every tokenizer class raises its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")
        if reason.endswith(":"):  # what it begins is a list of the files that it looked for
            reason = "no file there holds one"
        raise SixfoldError(
            f"the tokenizer in {folder} cannot be loaded ({reason})",
            "without one no text can be read: copy tokenizer.json and tokenizer_config.json from the base model",
        ) from error


def _stated(folder: Path) -> dict[str, Any]:
    """What a tokenizer's files say of its special tokens and chats."""
    settings, template = read_json_file(folder / "tokenizer_config.json"), folder / "chat_template.jinja"
    kept = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    found = {name: settings[name] for name in kept if isinstance(settings.get(name), str)}
    return {**found, **({"chat_template": template.read_text(encoding="utf-8")} if template.is_file() else {})}
