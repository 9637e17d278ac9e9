"""Whether a GGUF file's tokenizer gives the same tokens as its source's, and ends text where that ends."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import json_value
from verification.structure.gguf_subject import GgufSubject

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
"""Types of tokens (llama.h)."""

_DIGITS = {
    "gpt-2": 7,
    "qwen2": 1,
    "qwen35": 1,
    "tekken": 1,
    "smollm": 1,
    "llama-bpe": 3,
    "smaug-bpe": 3,
    "gpt-4o": 3,
    "minimax-m2": 3,
    "deepseek-v3": 3,
    "glm4": 3,
}
"""Name of a pre-tokenizer -> how many of seven digits it leaves together (src/llama-vocab.cpp): enough to tell most
that are mistaken for each other."""


def check_tokenizer(subject: GgufSubject) -> Iterator[Finding]:
    keys = subject.file.keys
    tokens, kinds = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.token_type")
    model = keys.get("tokenizer.ggml.model")
    if not isinstance(tokens, list) or not tokens:
        if subject.source is None or any(n.startswith("tokenizer") for n in subject.source.checkpoint.extras):
            what = "there is no list of tokens"
            yield Finding("keys.tokenizer", "tokenizer.ggml.tokens", what, "llama.cpp stops", EXPORT_AGAIN)
        return
    if isinstance(kinds, list) and len(kinds) != len(tokens):
        what = f"{len(kinds)} types for {len(tokens)} tokens"
        yield Finding("keys.tokenizer", "tokenizer.ggml.token_type", what, "tokens are of wrong types", EXPORT_AGAIN)
    if model == "gpt2" and not keys.get("tokenizer.ggml.merges"):
        where = "tokenizer.ggml.merges"
        yield Finding("keys.tokenizer", where, "a BPE tokenizer without merges", "llama.cpp stops", EXPORT_AGAIN)
    if model == "gpt2" and keys.get("tokenizer.ggml.pre") in (None, "default", ""):
        what = "the pre-tokenizer is not named, so llama.cpp cuts text by its default"
        yield Finding("keys.tokenizer", "tokenizer.ggml.pre", what, "prompts become other tokens", EXPORT_AGAIN)
    for name in ("eos", "bos", "padding", "unknown", "eot"):
        token = keys.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token, int) and not 0 <= token < len(tokens):
            what = f"it is {token}, outside of {len(tokens)} tokens"
            yield Finding("keys.tokenizer", f"tokenizer.ggml.{name}_token_id", what, "answers never end", EXPORT_AGAIN)
    size = subject.file.key("vocab_size")
    if isinstance(size, int) and size != len(tokens):
        what = f"it is {size}, and there are {len(tokens)} tokens"
        where = f"{subject.file.arch}.vocab_size"
        yield Finding("keys.tokenizer", where, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
    yield from _of_source(subject, tokens)


def _of_source(subject: GgufSubject, tokens: list[Any]) -> Iterator[Finding]:
    if subject.source is None:
        return
    folder = subject.source.checkpoint.folder
    template, config = folder / "chat_template.jinja", json_value(folder / "tokenizer_config.json")
    wanted = template.read_text(encoding="utf-8") if template.is_file() else (config or {}).get("chat_template")
    held = subject.file.keys.get("tokenizer.chat_template")
    if isinstance(wanted, str) and held != wanted:
        what = "it is missing" if held is None else "it differs from the source's"
        where = "tokenizer.chat_template"
        yield Finding("keys.chat-template", where, what, "chats reach the model in another form", EXPORT_AGAIN)
    tokenizer = json_value(folder / "tokenizer.json")
    vocab = ((tokenizer or {}).get("model") or {}).get("vocab")
    if not isinstance(vocab, dict):
        return
    yield from _model(subject, tokenizer)
    yield from _types(subject, tokenizer, vocab)
    yield from _beginning(subject, config or {}, folder, tokens)
    added = {t["content"]: t["id"] for t in (tokenizer or {}).get("added_tokens", [])}
    for text, number in {**vocab, **added}.items():
        if number >= len(tokens) or tokens[number] != text:
            found = tokens[number] if number < len(tokens) else "nothing"
            what = f"token {number} is {found!r}, in the source {text!r}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.tokens", what, "text turns into other tokens", EXPORT_AGAIN)
            return
    ends = (json_value(folder / "generation_config.json") or {}).get("eos_token_id", subject.config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    held_end = subject.file.keys.get("tokenizer.ggml.eos_token_id")
    if held_end is not None and all(isinstance(e, int) for e in ends) and held_end not in ends:
        named = _text_of(config or {}, "eos_token")
        if not 0 <= held_end < len(tokens) or tokens[held_end] != named:
            what = f"it is {held_end}, the source ends with {', '.join(map(str, ends))}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.eos_token_id", what, "answers never end", EXPORT_AGAIN)


def _model(subject: GgufSubject, tokenizer: Mapping[str, Any]) -> Iterator[Finding]:
    """The kind of tokenizer, its merges, and how it cuts digits."""
    keys, model = subject.file.keys, tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        return
    # Bytes stand in for what a SentencePiece vocabulary lacks; a byte-level one lacks nothing, whatever it asks for.
    by_bytes = "ByteLevel" in _kinds(tokenizer.get("pre_tokenizer")) | _kinds(tokenizer.get("decoder"))
    kind = "llama" if model.get("byte_fallback") and not by_bytes else "gpt2"
    held = keys.get("tokenizer.ggml.model")
    if held != kind:
        what = f"it is {held!r}, the source's tokenizer is what llama.cpp calls {kind!r}"
        yield Finding("keys.tokenizer", "tokenizer.ggml.model", what, "text turns into other tokens", EXPORT_AGAIN)
        return
    merges = keys.get("tokenizer.ggml.merges")
    if kind == "gpt2" and isinstance(merges, list):
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", [])]
        wanted = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]
        if merges != wanted:
            place = next((n for n, pair in enumerate(zip(merges, wanted, strict=False)) if pair[0] != pair[1]), None)
            what = f"merge {place} is not the source's" if place is not None else f"{len(merges)}, not {len(wanted)}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.merges", what, "text turns into other tokens", EXPORT_AGAIN)
    name = keys.get("tokenizer.ggml.pre")
    together = _digits_together(tokenizer)
    if kind == "gpt2" and together is not None and _DIGITS.get(str(name), together) != together:
        what = f"{name} leaves {_DIGITS[str(name)]} of seven digits together, the source's tokenizer {together}"
        yield Finding("keys.tokenizer", "tokenizer.ggml.pre", what, "text turns into other tokens", EXPORT_AGAIN)


def _digits_together(tokenizer: Mapping[str, Any]) -> int | None:
    from tokenizers import Tokenizer

    cutter: Any = Tokenizer.from_str(json.dumps(tokenizer)).pre_tokenizer
    if cutter is None:
        return None
    return max(len(word) for word, _ in cutter.pre_tokenize_str("1234567"))


def _types(subject: GgufSubject, tokenizer: Mapping[str, Any], vocab: Mapping[str, int]) -> Iterator[Finding]:
    """What never appears in text is marked so, and nothing else is."""
    kinds = subject.file.keys.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list):
        return
    added = {t["id"]: bool(t.get("special")) for t in tokenizer.get("added_tokens", [])}
    for number in sorted({*vocab.values(), *added}):
        kind = kinds[number] if number < len(kinds) else _NORMAL
        hidden = kind in (_CONTROL, _UNUSED)
        if (added.get(number) is True and not hidden) or (number not in added and hidden):
            what = f"token {number} is of type {kind}, and in the source {'' if number in added else 'not '}special"
            consequence = "its text is written where it should not be, or never"
            yield Finding("keys.tokenizer", "tokenizer.ggml.token_type", what, consequence, EXPORT_AGAIN)
            return


def _beginning(subject: GgufSubject, config: Mapping[str, Any], folder: Path, tokens: list[Any]) -> Iterator[Finding]:
    """The token that begins a text, and whether it is put there."""
    keys = subject.file.keys
    held, puts = keys.get("tokenizer.ggml.bos_token_id"), keys.get("tokenizer.ggml.add_bos_token")
    named = _text_of(config, "bos_token")
    generation = json_value(folder / "generation_config.json") or {}
    stated = {subject.config.get("bos_token_id"), generation.get("bos_token_id")}
    known = {token for token in stated if isinstance(token, int)}
    known |= {number for number, text in enumerate(tokens) if named is not None and text == named}
    if isinstance(held, int) and known and held not in known and subject.file.arch != "glm4moe":
        what = f"it is {held}, the source begins with {' or '.join(map(str, sorted(known)))}"
        yield Finding("keys.tokenizer", "tokenizer.ggml.bos_token_id", what, "texts begin differently", EXPORT_AGAIN)
    elif isinstance(held, int) and isinstance(puts, bool):
        try:
            begins = load_tokenizer(folder)("a")["input_ids"][:1] == [held]
        except SixfoldError:
            return
        if puts != begins:
            what = f"it is {puts}, and the source {'begins' if begins else 'does not begin'} texts with token {held}"
            yield Finding(
                "keys.tokenizer", "tokenizer.ggml.add_bos_token", what, "texts begin differently", EXPORT_AGAIN
            )


def _text_of(config: Mapping[str, Any], token: str) -> Any:
    """What tokenizer_config.json calls a token: its text, or an object that holds it."""
    named = config.get(token)
    return named.get("content") if isinstance(named, dict) else named


def _kinds(part: Any) -> set[str]:
    """Types of a pre-tokenizer or decoder, and of those that it is a sequence of."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part)) if part else set()
    if not isinstance(part, Mapping):
        return set()
    return {str(part.get("type"))} | _kinds([part[key] for key in ("pretokenizers", "decoders") if key in part])
