"""Whether the tokens that a GGUF file gives a meaning (first, last, padding) are its source's, and no others are."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import json_value
from verification.structure.gguf.subject import GgufSubject

_KINDS = {
    "bos": "bos",
    "eos": "eos",
    "unknown": "unk",
    "padding": "pad",
    "seperator": "sep",  # gguf's own spelling
    "cls": "cls",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
"""Key -> what tokenizer_config.json and config.json call it."""

_FOUND_BY_TEXT: Mapping[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
        "[e~[",
    ),
    "eom": ("<|eom_id|>",),
}
"""Texts that llama.cpp itself takes for these, where a file does not say (src/llama-vocab.cpp)."""

_GLM_4 = {"bos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
_GLM_4_5 = {**_GLM_4, "bos": "[gMASK]", "eom": "<|observation|>"}
_GLM: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("glm4", "chatglm"), _GLM_4),
    **dict.fromkeys(("glm4moe", "glm-dsa", "deepseek2"), _GLM_4_5),
}
"""What llama.cpp's converter states of GLM (conversion/base.py and glm.py), whose files do not, by architecture."""

_BEGIN_BY_NAME = frozenset("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 chameleon tekken".split())
"""Pre-tokenizers for which llama.cpp puts the first token where the file does not say."""

_ALWAYS_BEGINS = ("gemma4",)
"""Architectures whose texts llama.cpp begins with a token whatever a file says."""


def check_special_tokens(subject: GgufSubject, tokens: list[Any]) -> Iterator[Finding]:
    if subject.source is None:
        return
    folder, keys = subject.source.checkpoint.folder, subject.file.keys
    stated = _stated(subject, folder, tokens)
    for key, kind in _KINDS.items():
        name = f"tokenizer.ggml.{key}_token_id"
        held, wanted = keys.get(name), stated.get(kind, set())
        if held is None:
            if kind == "eos" and wanted:
                what = f"it is missing, the source ends with {_listed(wanted)}"
                yield Finding("keys.tokenizer", name, what, "answers never end", EXPORT_AGAIN)
            continue
        if held not in wanted and not (wanted == set() and _by_text(kind, held, tokens)):
            meant = f"the source's is {_listed(wanted)}" if wanted else "the source names none"
            what = f"it is {held}, {meant}"
            consequence = "answers never end, or end early" if kind[0] == "e" else "texts become other tokens"
            yield Finding("keys.tokenizer", name, what, consequence, EXPORT_AGAIN)
    for name in keys:
        ours = name.startswith("tokenizer.ggml.") and name.endswith("_token_id")
        if ours and name.split(".")[2].removesuffix("_token_id") not in _KINDS and not _names_itself(subject, name):
            what = f"it is {keys[name]}, and the source names none"
            yield Finding("keys.tokenizer", name, what, "engines give a token another meaning", "remove the key")
    yield from _put(subject, folder)


def _stated(subject: GgufSubject, folder: Path, tokens: list[Any]) -> dict[str, set[int]]:
    """Every number that the source's files give each kind of token."""
    config = json_value(folder / "tokenizer_config.json")
    generation = json_value(folder / "generation_config.json")
    numbers = {text: number for number, text in enumerate(tokens) if isinstance(text, str)}
    found: dict[str, set[int]] = {}
    glm = _GLM.get(subject.file.arch, {})
    for kind in _KINDS.values():
        text = config.get(f"{kind}_token") if isinstance(config, dict) else None
        text = text.get("content") if isinstance(text, dict) else text
        texts = [text, *([glm.get(kind)] if _GLM_4_5["bos"] in numbers else [])]
        found[kind] = {numbers[one] for one in texts if isinstance(one, str) and one in numbers}
        stated = [part.get(f"{kind}_token_id") for part in (subject.config, generation) if isinstance(part, Mapping)]
        for value in stated:
            listed = value if isinstance(value, list) else [value]
            found[kind] |= {one for one in listed if isinstance(one, int) and not isinstance(one, bool)}
    return found


def _by_text(kind: str, held: Any, tokens: list[Any]) -> bool:
    return isinstance(held, int) and 0 <= held < len(tokens) and tokens[held] in _FOUND_BY_TEXT.get(kind, ())


def _names_itself(subject: GgufSubject, name: str) -> bool:
    """Whether the text of a fill-in token (fim_pre, prefix, ...) says what it is."""
    tokens, held = subject.file.keys["tokenizer.ggml.tokens"], subject.file.keys[name]
    if not isinstance(held, int) or not 0 <= held < len(tokens):
        return False
    text = str(tokens[held]).lower()
    return any(part in text for part in ("fim", "pre", "suf", "mid", "repo", "file", "pad", "sep"))


def _put(subject: GgufSubject, folder: Path) -> Iterator[Finding]:
    """Which tokens llama.cpp puts before and behind a text, and which the source does."""
    keys = subject.file.keys
    try:
        put = load_tokenizer(folder)("a")["input_ids"]
    except SixfoldError:
        return
    begins = keys.get("tokenizer.ggml.model") == "llama" or keys.get("tokenizer.ggml.pre") in _BEGIN_BY_NAME
    for kind, default, place in (("bos", begins, 0), ("eos", False, -1)):
        key, held = f"tokenizer.ggml.add_{kind}_token", keys.get(f"tokenizer.ggml.{kind}_token_id")
        stated = keys.get(key)
        does = default if stated is None else stated
        if not isinstance(held, int) or not isinstance(does, bool) or len(put) < 2:
            source = False
        else:
            source = put[place] == held
        config = json_value(folder / "tokenizer_config.json")
        said = isinstance(config, dict) and config.get(f"add_{kind}_token") is not None
        if stated is None and not source and not said:
            continue  # no converter can know
        if kind == "bos" and subject.file.arch in _ALWAYS_BEGINS:
            continue
        if isinstance(held, int) and does != source:
            what = f"{'it is missing, which means' if stated is None else 'it is'} {does}"
            where = "begins" if kind == "bos" else "ends"
            what += f", and the source {where if source else f'never {where}'} texts with token {held}"
            yield Finding("keys.tokenizer", key, what, f"texts {where[:-1]} differently", EXPORT_AGAIN)


def _listed(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
