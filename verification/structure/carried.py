"""Whether the tokenizer, the chat template and the generation config are the source's, and fit the model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sixfold.checkpoint.carried_files import carried_files
from verification.finding import Finding, Severity
from verification.reading.folder import json_value
from verification.reading.subject import Subject

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "spiece.model")


def check_source_files(subject: Subject) -> Iterator[Finding]:
    """Byte for byte what the source has."""
    if subject.source is None:
        return
    checkpoint = subject.source.checkpoint
    for name in checkpoint.extras:
        if name.upper().startswith(("LICEN", "NOTICE")) and name not in subject.folder.files:
            what = "the source has it, the artifact does not"
            yield Finding("files.carried", name, what, "the license's terms are not met", "copy it from the source")
        elif name not in subject.folder.files:
            what = "the source has it, the artifact does not"
            yield Finding(
                "files.carried",
                name,
                what,
                "engines tokenize or generate differently, or stop",
                "copy it from the source",
            )
        elif (checkpoint.folder / name).read_bytes() != (subject.folder.path / name).read_bytes():
            if _same_json(checkpoint.folder / name, subject.folder.path / name):
                continue
            what = "it differs from the source's"
            yield Finding(
                "files.carried",
                name,
                what,
                "prompts are tokenized differently, or end elsewhere",
                "copy the source's",
            )
    for name in carried_files(subject.folder.files):
        template = name.endswith(".jinja") or name == "generation_config.json"
        if template and name not in checkpoint.extras:
            what = "the source has no such file"
            yield Finding("files.carried", name, what, "it overrides what the source does", "remove it", "warning")


def check_tokenizer(subject: Subject) -> Iterator[Finding]:
    """There is one, and every token has a row in the embeddings."""
    folder, config = subject.folder, subject.folder.config
    if not any(name in folder.files for name in _TOKENIZERS):
        if subject.source is not None and not any(n in subject.source.checkpoint.extras for n in _TOKENIZERS):
            return
        what = "there is no tokenizer"
        severity: Severity = "warning" if subject.source is None else "error"
        yield Finding(
            "files.tokenizer", "tokenizer.json", what, "no engine can serve it", "copy the source's", severity
        )
        return
    text = config.get("text_config")
    vocab = config.get("vocab_size", text.get("vocab_size") if isinstance(text, Mapping) else None)
    tokenizer = json_value(folder.path / "tokenizer.json") if "tokenizer.json" in folder.files else None
    if "tokenizer.json" in folder.files and tokenizer is None:
        yield Finding("files.tokenizer", "tokenizer.json", "it is not valid JSON", "loading stops", "copy the source's")
        return
    largest = _largest_token(tokenizer)
    if isinstance(vocab, int) and largest is not None and largest >= vocab:
        what = f"it has token {largest}, the embeddings have {vocab} rows"
        yield Finding(
            "files.tokenizer", "tokenizer.json", what, "an index out of range on the GPU", "copy the source's"
        )


def check_generation(subject: Subject) -> Iterator[Finding]:
    name = "generation_config.json"
    if name not in subject.folder.files:
        return
    generation, vocab = json_value(subject.folder.path / name), subject.folder.config.get("vocab_size")
    if not isinstance(generation, dict):
        yield Finding("files.generation", name, "it is not a JSON object", "loading stops", "copy the source's")
        return
    ends = generation.get("eos_token_id")
    for token in ends if isinstance(ends, list) else [ends]:
        if isinstance(token, int) and isinstance(vocab, int) and not 0 <= token < vocab:
            what = f"eos_token_id {token} is outside of the vocabulary of {vocab}"
            yield Finding("files.generation", name, what, "answers never end", "copy the source's")


def _largest_token(tokenizer: Any) -> int | None:
    try:
        vocab = tokenizer["model"]["vocab"]
        ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
        return max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))])
    except (KeyError, TypeError, ValueError):
        return None


def _same_json(one: Path, other: Path) -> bool:
    """Whether two JSON files say the same; libraries that save them again change only how they are written."""
    if one.suffix != ".json":
        return False
    first, second = json_value(one), json_value(other)
    drop = ("transformers_version",)
    if isinstance(first, dict) and isinstance(second, dict):
        first = {k: v for k, v in first.items() if k not in drop}
        second = {k: v for k, v in second.items() if k not in drop}
    return first is not None and first == second
