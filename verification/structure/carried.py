"""Whether the tokenizer, the chat template and the generation config are the source's, and fit the model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sixfold.boundary.tokenizer_json import read_tokenizer_json
from sixfold.checkpoint.carried_files import carried_files
from sixfold.errors import SixfoldError
from verification.finding import Finding, Severity
from verification.reading.folder import json_value
from verification.reading.subject import Subject
from verification.structure.chat_template import syntax_error

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


def check_added_files(subject: Subject) -> Iterator[Finding]:
    """What engines read beside the weights and the source does not have says nothing that the source does not say."""
    files = subject.folder.files
    if subject.source is None:
        if "special_tokens_map.json" in files and not _agrees(subject.folder.path, subject.folder.path, _MAP):
            what = "it names other special tokens than tokenizer_config.json"
            yield Finding("files.carried", _MAP, what, "answers end elsewhere", "remove it")
        return
    checkpoint = subject.source.checkpoint
    nested = [name for name in files if name.startswith("additional_chat_templates/")]
    for name in (*carried_files(files), *nested):
        theirs = checkpoint.folder / name
        if name in checkpoint.extras or (name in nested and _same_bytes(theirs, subject.folder.path / name)):
            continue
        if name.endswith((".py", *_HARMLESS)) or name.upper().startswith(("LICEN", "NOTICE")):
            continue  # what auto_map names has a check of its own; a license says nothing to an engine
        if not _agrees(subject.folder.path, checkpoint.folder, name):
            what = "the source has no such file, nor says the same elsewhere"
            yield Finding("files.carried", name, what, "it overrides what the source does", "remove it")


_MAP = "special_tokens_map.json"
_HARMLESS = ("merges.txt", "preprocessor_config.json", "processor_config.json", ".tiktoken")
"""What libraries write again of a tokenizer.json, which goes before them, and what a language model does not read."""


def _same_bytes(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _agrees(folder: Path, source: Path, name: str) -> bool:
    """Whether a file that libraries write by themselves says what the source's own files say."""
    held, config = json_value(folder / name), json_value(source / "tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    if name.endswith(".jinja"):
        stated = config.get("chat_template")
        return name == "chat_template.jinja" and (folder / name).read_text(encoding="utf-8") == stated
    if not isinstance(held, dict):
        return False
    if name == "vocab.json":
        return held.items() <= _numbers(json_value(source / "tokenizer.json")).items()
    if name == _MAP:
        return all(_text(config.get(key)) == _text(value) for key, value in held.items() if key in config or value)
    if name == "added_tokens.json":
        tokenizer = json_value(source / "tokenizer.json")
        added = tokenizer.get("added_tokens", []) if isinstance(tokenizer, dict) else []
        known = {token.get("content"): token.get("id") for token in added if isinstance(token, dict)}
        return all(known.get(text) == number for text, number in held.items())
    if name == "generation_config.json":
        stated = json_value(source / "config.json")
        stated = stated if isinstance(stated, dict) else {}
        own = ("transformers_version", "_from_model_config")
        return all(stated.get(key) == value for key, value in held.items() if key not in own)
    return False


def _text(token: Any) -> Any:
    if isinstance(token, list):
        return [_text(one) for one in token]
    return token.get("content") if isinstance(token, dict) else token


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
    if tokenizer is not None and (subject.source is None or "tokenizer.json" not in subject.source.checkpoint.extras):
        yield from _unreadable(folder.path / "tokenizer.json")
    largest = _largest_token(tokenizer)
    if isinstance(vocab, int) and largest is not None and largest >= vocab:
        what = f"it has token {largest}, the embeddings have {vocab} rows"
        yield Finding(
            "files.tokenizer", "tokenizer.json", what, "an index out of range on the GPU", "copy the source's"
        )


def _unreadable(path: Path) -> Iterator[Finding]:
    """What the library that tokenizes refuses; of what it takes, a token that cannot be told from another."""
    try:
        parsed, tokenizer = read_tokenizer_json(path)
    except SixfoldError as error:
        what = error.what.replace(f"{path} is", "it is")
        yield Finding("files.tokenizer", path.name, what, "loading stops", "copy the source's")
        return
    vocab = parsed["model"].get("vocab")
    if not vocab or not tokenizer.get_vocab_size():
        yield Finding("files.tokenizer", path.name, "it has no tokens", "no text can be read", "copy the source's")
    elif isinstance(vocab, dict) and len(set(vocab.values())) < len(vocab):
        twice = next(number for number, count in Counter(vocab.values()).items() if count > 1)
        what = f"two of its tokens have the number {twice}"
        yield Finding(
            "files.tokenizer", path.name, what, "text comes back as other text", "copy the source's", "warning"
        )


def check_templates(subject: Subject) -> Iterator[Finding]:
    """Chat templates can be read."""
    config = json_value(subject.folder.path / "tokenizer_config.json")
    stated = config.get("chat_template") if isinstance(config, dict) else None
    texts = {"tokenizer_config.json": stated} if isinstance(stated, str) else {}
    for name in subject.folder.files:
        if name.endswith(".jinja"):
            texts[name] = (subject.folder.path / name).read_text(encoding="utf-8", errors="replace")
    for name, text in texts.items():
        wrong = syntax_error(text)
        if wrong is not None:
            what = f"the chat template cannot be read: {wrong}"
            yield Finding("files.chat-template", name, what, "chats cannot start", "copy the source's")


def check_ends(subject: Subject) -> Iterator[Finding]:
    """An answer ends with a token that config.json or the tokenizer ends with, or that is no part of a text."""
    path = subject.folder.path
    text = subject.folder.config.get("text_config")
    config = {**(text if isinstance(text, Mapping) else {}), **subject.folder.config}
    generation, tokenizer = json_value(path / "generation_config.json"), json_value(path / "tokenizer.json")
    named = json_value(path / "tokenizer_config.json")
    ends = _text(named.get("eos_token")) if isinstance(named, dict) else None
    by_tokenizer = _number(tokenizer, ends) if isinstance(tokenizer, dict) else None
    by_generation = _ids(generation.get("eos_token_id")) if isinstance(generation, dict) else set()
    others = _ids(config.get("eos_token_id")) | ({by_tokenizer} if by_tokenizer is not None else set())
    added = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
    special = {t.get("id") for t in added if isinstance(t, Mapping)} if isinstance(added, list) else set()
    if by_generation and others and not by_generation & (others | special):
        what = f"it ends with {_shown(by_generation)}, config.json and the tokenizer with {_shown(others)}"
        where = "generation_config.json"
        yield Finding("files.generation", where, what, "answers never end", "copy the source's")
    decoder = named.get("added_tokens_decoder") if isinstance(named, dict) else None
    later = {_text(token) for token in decoder.values()} if isinstance(decoder, dict) else set()
    if isinstance(ends, str) and isinstance(tokenizer, dict) and by_tokenizer is None and ends not in later:
        what = f"its eos_token {ends!r} is no token of tokenizer.json"
        yield Finding("files.tokenizer", "tokenizer_config.json", what, "answers never end", "copy the source's")


def _number(tokenizer: Mapping[str, Any], text: Any) -> int | None:
    found = _numbers(tokenizer).get(text) if isinstance(text, str) else None
    return found if isinstance(found, int) else None


def _numbers(tokenizer: Any) -> dict[Any, Any]:
    """Of every token by its text; {} where the file does not say."""
    if not isinstance(tokenizer, Mapping):
        return {}
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    added = tokenizer.get("added_tokens")
    known = dict(vocab) if isinstance(vocab, Mapping) else {}
    if isinstance(vocab, list):  # of Unigram: pairs of a token and its score
        known = {entry[0]: place for place, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, Mapping):
            known[token.get("content")] = token.get("id")
    return known


def _ids(value: Any) -> set[int]:
    listed = value if isinstance(value, list) else [value]
    return {one for one in listed if isinstance(one, int) and not isinstance(one, bool)}


def _shown(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def check_generation(subject: Subject) -> Iterator[Finding]:
    name = "generation_config.json"
    if name not in subject.folder.files:
        return
    generation, vocab = json_value(subject.folder.path / name), subject.folder.config.get("vocab_size")
    if not isinstance(generation, dict):
        yield Finding("files.generation", name, "it is not a JSON object", "loading stops", "copy the source's")
        return
    ends = _ids(generation.get("eos_token_id"))
    outside = {token for token in ends if isinstance(vocab, int) and not 0 <= token < vocab}
    if outside:
        what = f"eos_token_id {_shown(outside)} is outside of the vocabulary of {vocab}"
        as_configured = ends == _ids(subject.folder.config.get("eos_token_id"))  # then the model was made so
        consequence = "answers never end" if outside == ends else "only the others end an answer"
        severity: Severity = "warning" if as_configured or outside != ends else "error"
        yield Finding("files.generation", name, what, consequence, "copy the source's", severity)


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
    drop = ("transformers_version", "backend", "is_local", "local_files_only", "name_or_path", "_from_model_config")
    if isinstance(first, dict) and isinstance(second, dict):
        first = {k: v for k, v in first.items() if k not in drop}
        second = {k: v for k, v in second.items() if k not in drop}
    return first is not None and first == second
