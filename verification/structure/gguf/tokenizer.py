"""Whether a GGUF file's tokenizer gives the same tokens as its source's, and ends text where that ends."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from math import isfinite
from pathlib import Path
from typing import Any

from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import json_value
from verification.structure.chat_template import syntax_error
from verification.structure.gguf.pre_tokenizer import NAMES, mistaken
from verification.structure.gguf.special_tokens import check_special_tokens
from verification.structure.gguf.subject import GgufSubject

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
"""Types of tokens (llama.h)."""

_BYTES = re.compile(r"<0x[0-9A-F]{2}>")

TOKENIZER_TYPES = {
    f"tokenizer.ggml.{key}": kind
    for key, kind in {
        "model": "string",
        "pre": "string",
        "tokens": "[string]",
        "merges": "[string]",
        "scores": "[f32]",
        "token_type": "[i32] or [u32]",
        "add_bos_token": "bool",
        "add_eos_token": "bool",
        "add_space_prefix": "bool",
        "remove_extra_whitespaces": "bool",
        **{f"{kind}_token_id": "u32" for kind in ("bos", "eos", "unknown", "padding", "eot", "eom")},
    }.items()
} | {"tokenizer.chat_template": "string"}
"""The types that llama.cpp reads these keys by."""

_VISIBLE = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
"""Special tokens of Gemma 4 that its file must not hide from readers of answers (conversion/gemma.py)."""

_OTHER_TOKENS = "text turns into other tokens"

_KNOWN = (
    "seperator_token_id cls_token_id mask_token_id add_sep_token token_type_count precompiled_charsmap suppress_tokens"
)
"""Further keys of tokenizers; what is none of these, no reader asks for."""


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
    if model == "gpt2" and keys.get("tokenizer.ggml.pre") not in (None, "", *NAMES):
        what = f"llama.cpp has no pre-tokenizer {keys.get('tokenizer.ggml.pre')!r}"
        yield Finding("keys.tokenizer", "tokenizer.ggml.pre", what, "llama.cpp stops", EXPORT_AGAIN)
    if isinstance(kinds, list) and not all(isinstance(kind, int) and 1 <= kind <= 6 for kind in kinds):
        what = "some types are none of llama.cpp's, which go from 1 to 6"
        yield Finding("keys.tokenizer", "tokenizer.ggml.token_type", what, "tokens are of wrong types", EXPORT_AGAIN)
    scores = keys.get("tokenizer.ggml.scores")
    if isinstance(scores, list) and (len(scores) != len(tokens) or not all(map(isfinite, scores))):
        what = f"{len(scores)} scores for {len(tokens)} tokens, or some that are not finite"
        yield Finding("keys.tokenizer", "tokenizer.ggml.scores", what, _OTHER_TOKENS, EXPORT_AGAIN)
    for name in ("eos", "bos", "padding", "unknown", "eot", "eom", "seperator", "cls", "mask"):
        token = keys.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token, int) and not 0 <= token < len(tokens):
            what = f"it is {token}, outside of {len(tokens)} tokens"
            yield Finding("keys.tokenizer", f"tokenizer.ggml.{name}_token_id", what, "answers never end", EXPORT_AGAIN)
    size = subject.file.key("vocab_size")
    if isinstance(size, int) and size != len(tokens):
        what = f"it is {size}, and there are {len(tokens)} tokens"
        where = f"{subject.file.arch}.vocab_size"
        yield Finding("keys.tokenizer", where, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
    yield from _consistent(keys, tokens)
    yield from _of_source(subject, tokens)


def _consistent(keys: Mapping[str, Any], tokens: list[Any]) -> Iterator[Finding]:
    """What the tokenizer's keys say of each other."""
    merges, known = keys.get("tokenizer.ggml.merges"), set(map(str, tokens))
    if len(known) < len(tokens):
        twice = next(text for text, count in Counter(map(str, tokens)).items() if count > 1)
        if twice or len(known) + sum(not text for text in tokens) - 1 < len(tokens):  # empty ones get a name
            what = f"two tokens are {twice[:20]!r}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.tokens", what, "llama.cpp stops", EXPORT_AGAIN)
    if keys.get("tokenizer.ggml.model") == "gpt2" and keys.get("tokenizer.ggml.remove_extra_whitespaces"):
        where = "tokenizer.ggml.remove_extra_whitespaces"
        yield Finding("keys.tokenizer", where, "no BPE tokenizer removes any", _OTHER_TOKENS, "remove the key")
    if isinstance(merges, list):
        lost = next((m for m in merges if not isinstance(m, str) or not _makes(m, known)), None)
        if lost is not None:
            what = f"the merge {lost!r} makes no token of the list"
            yield Finding("keys.tokenizer", "tokenizer.ggml.merges", what, _OTHER_TOKENS, EXPORT_AGAIN)
    end, kinds = keys.get("tokenizer.ggml.eos_token_id"), keys.get("tokenizer.ggml.token_type")
    if isinstance(end, int) and isinstance(kinds, list) and 0 <= end < len(kinds) and kinds[end] in (_NORMAL, _BYTE):
        what = f"it is {end}, an ordinary token ({str(tokens[end])[:20]!r})"
        yield Finding("keys.tokenizer", "tokenizer.ggml.eos_token_id", what, "answers end early", EXPORT_AGAIN)
    template = keys.get("tokenizer.chat_template")
    wrong = syntax_error(template) if isinstance(template, str) else None
    if wrong is not None:
        where = "tokenizer.chat_template"
        yield Finding("keys.chat-template", where, f"it cannot be read: {wrong}", "chats cannot start", EXPORT_AGAIN)


def _makes(merge: str, known: Set[str]) -> bool:
    """Whether two tokens are merged into a third."""
    one, space, other = merge.partition(" ")
    return bool(one and space and other) and one + other in known


def _of_source(subject: GgufSubject, tokens: list[Any]) -> Iterator[Finding]:
    if subject.source is None:
        return
    folder = subject.source.checkpoint.folder
    template, config = folder / "chat_template.jinja", json_value(folder / "tokenizer_config.json")
    wanted = template.read_text(encoding="utf-8") if template.is_file() else (config or {}).get("chat_template")
    held = subject.file.keys.get("tokenizer.chat_template")
    if wanted is None and held is not None:
        what = "the source has no chat template"
        yield Finding("keys.chat-template", "tokenizer.chat_template", what, "chats take a foreign form", EXPORT_AGAIN)
    if isinstance(wanted, str) and held != wanted:
        what = "it is missing" if held is None else "it differs from the source's"
        where = "tokenizer.chat_template"
        yield Finding("keys.chat-template", where, what, "chats reach the model in another form", EXPORT_AGAIN)
    yield from _other_templates(subject, config)
    put = isinstance(config, dict) and config.get("add_prefix_space")
    keys = subject.file.keys
    if keys.get("tokenizer.ggml.model") == "gpt2" and keys.get("tokenizer.ggml.add_space_prefix") and not put:
        what = "the source's tokenizer puts no space before a text"
        where = "tokenizer.ggml.add_space_prefix"
        yield Finding("keys.tokenizer", where, what, "answers lose their first space", "remove the key")
    tokenizer = json_value(folder / "tokenizer.json")
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not isinstance(tokenizer, dict):
        return
    yield from _model(subject, tokenizer)
    yield from _types(subject, tokenizer, vocab, tokens)
    yield from check_special_tokens(subject, tokens)
    added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
    for text, number in {**vocab, **added}.items():
        if number >= len(tokens) or tokens[number] != text:
            found = tokens[number] if number < len(tokens) else "nothing"
            what = f"token {number} is {found!r}, in the source {text!r}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.tokens", what, _OTHER_TOKENS, EXPORT_AGAIN)
            return


def _other_templates(subject: GgufSubject, config: Any) -> Iterator[Finding]:
    """Chat templates under further names, which engines choose by what a request holds."""
    held = subject.file.keys
    listed = config.get("chat_template") if isinstance(config, dict) else None
    named = listed if isinstance(listed, list) else []
    wanted = {t.get("name"): t.get("template") for t in named if isinstance(t, dict)}
    extra = subject.source.checkpoint.folder / "additional_chat_templates" if subject.source is not None else Path()
    if extra.is_dir():
        wanted |= {path.stem: path.read_text(encoding="utf-8") for path in extra.glob("*.jinja")}
    for key, value in held.items():
        name = key.removeprefix("tokenizer.chat_template.")
        if name != key and wanted.get(name) != value:
            what = "it differs from the source's" if name in wanted else "the source has no such template"
            yield Finding("keys.chat-template", key, what, "chats reach the model in another form", EXPORT_AGAIN)
    for key in held:
        short = key.removeprefix("tokenizer.ggml.")
        if key == "tokenizer.chat_templates" and not set(held[key]) <= set(wanted):
            what = "it names templates that the source does not have"
            yield Finding("keys.chat-template", key, what, "chats reach the model in another form", EXPORT_AGAIN)
        elif short != key and key not in TOKENIZER_TYPES and short not in _KNOWN.split() and "_token_id" not in short:
            what = "the source has nothing of the kind"
            yield Finding("keys.added", key, what, "unknown", "remove the key", "warning")


def _model(subject: GgufSubject, tokenizer: Mapping[str, Any]) -> Iterator[Finding]:
    """The kind of tokenizer, its merges, and how it cuts digits."""
    from tokenizers import Tokenizer

    keys, model = subject.file.keys, tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        return
    # Bytes stand in for what a SentencePiece vocabulary lacks; a byte-level one lacks nothing, whatever it asks for.
    by_bytes = "ByteLevel" in _kinds(tokenizer.get("pre_tokenizer")) | _kinds(tokenizer.get("decoder"))
    kind = "llama" if model.get("byte_fallback") and not by_bytes else "gpt2"
    kind = "gemma4" if subject.file.arch == "gemma4" else kind  # text with marks for spaces, and merges
    held = keys.get("tokenizer.ggml.model")
    if held != kind:
        what = f"it is {held!r}, the source's tokenizer is what llama.cpp calls {kind!r}"
        yield Finding("keys.tokenizer", "tokenizer.ggml.model", what, _OTHER_TOKENS, EXPORT_AGAIN)
        return
    merges = keys.get("tokenizer.ggml.merges")
    if kind == "gpt2" and isinstance(merges, list):
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", [])]
        wanted = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]
        if merges != wanted:
            place = next((n for n, pair in enumerate(zip(merges, wanted, strict=False)) if pair[0] != pair[1]), None)
            what = f"merge {place} is not the source's" if place is not None else f"{len(merges)}, not {len(wanted)}"
            yield Finding("keys.tokenizer", "tokenizer.ggml.merges", what, _OTHER_TOKENS, EXPORT_AGAIN)
    name = str(keys.get("tokenizer.ggml.pre"))
    text = mistaken(name, Tokenizer.from_str(json.dumps(tokenizer)).pre_tokenizer) if kind == "gpt2" else None
    if text is not None:
        what = f"{name} cuts {text[:24]!r} into other words than the source's tokenizer does"
        yield Finding("keys.tokenizer", "tokenizer.ggml.pre", what, _OTHER_TOKENS, EXPORT_AGAIN)
    if kind == "llama":
        yield from _scores(subject, model)


def _scores(subject: GgufSubject, model: Mapping[str, Any]) -> Iterator[Finding]:
    """Tokens of earlier merges have the larger scores, or all have one."""
    keys = subject.file.keys
    tokens, scores = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or not isinstance(tokens, list) or len(scores) != len(tokens):
        return
    numbers = {text: number for number, text in enumerate(tokens)}
    before: float | None = None
    seen: set[int] = set()
    for merge in model.get("merges", []):
        number = numbers.get("".join(merge.split(" ") if isinstance(merge, str) else merge))
        if number is None or number in seen:
            continue
        seen.add(number)
        if before is not None and scores[number] > before:
            what = f"token {number} has a larger score than one of an earlier merge"
            yield Finding("keys.tokenizer", "tokenizer.ggml.scores", what, _OTHER_TOKENS, EXPORT_AGAIN)
            return
        before = scores[number]


def _types(
    subject: GgufSubject, tokenizer: Mapping[str, Any], vocab: Mapping[str, int], tokens: list[Any]
) -> Iterator[Finding]:
    """What never appears in text is marked so, and nothing else is."""
    kinds = subject.file.keys.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list):
        return
    added = {t["id"]: bool(t.get("special")) for t in tokenizer.get("added_tokens", [])}
    held = set(vocab.values())
    unknown = tokenizer["model"].get("unk_token")
    for number, kind in enumerate(kinds[: len(tokens)]):
        text = str(tokens[number])
        if number in added:
            looks = text.startswith(("<", "["))  # converters take the look of a token for its kind
            right = {_CONTROL, _UNUSED} if added[number] else {_USER, *((_CONTROL,) if looks else ())}
        elif number in held:
            right = {_BYTE, _NORMAL} if _BYTES.fullmatch(text) else {_NORMAL}
        else:
            right = {_UNUSED, _NORMAL, _CONTROL, _USER}  # no text turns into it, whatever it is called
        right |= {_USER} if subject.file.arch == "gemma4" and text in _VISIBLE else set()
        right |= {_UNKNOWN} if text in (unknown, "<unk>") else set()
        if kind not in right:
            special = "special" if added.get(number) else "added" if number in added else "ordinary"
            what = f"token {number} is of type {kind}, and in the source {special}"
            consequence = "its text is written where it should not be, or never"
            yield Finding("keys.tokenizer", "tokenizer.ggml.token_type", what, consequence, EXPORT_AGAIN)
            return


def _kinds(part: Any) -> set[str]:
    """Types of a pre-tokenizer or decoder, and of those that it is a sequence of."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part)) if part else set()
    if not isinstance(part, Mapping):
        return set()
    return {str(part.get("type"))} | _kinds([part[key] for key in ("pretokenizers", "decoders") if key in part])
