"""Which of llama.cpp's named pre-tokenizers a tokenizer.json's own is: how text is split into words before BPE merges.

llama.cpp holds the splitting in code, under a name that a file gives in `tokenizer.ggml.pre`. Its converter finds the
name by hashing what a tokenizer makes of a test text, so that every new vocabulary is unknown at first. But splitting
does not depend on the vocabulary, and a tokenizer.json states it: it is recognized here by what it is.
"""

from collections.abc import Mapping
from typing import Any

from sixfold.errors import SixfoldError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _ENDS

_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_MARKS}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_MARKS}"
_QWEN35 = rf"{_CONTRACTIONS}|{_START}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_ENDS}"
_GPT4O = (
    rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHED}"
)
_TEKKEN = rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHED}"
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + _ENDS
)
_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_KNOWN: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((r"\p{N}", _GPT2), False): "smollm",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_LLAMA3,), True): "llama-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_GPT4O,), False): "gpt-4o",
    ((_TEKKEN,), True): "tekken",
    ((r"\p{N}{1,3}", _CJK, _DEEPSEEK), False): "deepseek-v3",
}
"""(regular expressions in turn, whether whole words of the vocabulary skip the merges) -> llama.cpp's name. Several of
its names mean the same splitting; here stands the one without other effects."""

_OWN_NAMES = {
    ("gpt-4o", "minimax-m2"): "minimax-m2",
    ("llama-bpe", "glm4moe"): "glm4",
}
"""(splitting, architecture) -> the family's own name for it, where it has one."""


def pre_tokenizer_name(tokenizer: Mapping[str, Any], arch: str) -> str:
    """llama.cpp's name. tokenizer: a parsed tokenizer.json of kind BPE. arch: llama.cpp's architecture.

    Raises SixfoldError where llama.cpp has no such pre-tokenizer, as far as known here.
    """
    splits = _splits(tokenizer.get("pre_tokenizer"))
    whole_words = bool(tokenizer["model"].get("ignore_merges"))
    name = _KNOWN.get((splits, whole_words)) if splits is not None else None
    if name is None:
        what = "unlike any known of llama.cpp" if splits is None else f"splits by {' then '.join(splits)!r}"
        raise SixfoldError(
            f"the pre-tokenizer of this tokenizer.json was not recognized ({what})",
            "set options.tokenizer_pre in the recipe to the name that llama.cpp has for it",
        )
    return _OWN_NAMES.get((name, arch), name)


def _splits(step: Any) -> tuple[str, ...] | None:
    """The regular expressions by which text is cut, one after the other; None where it is done in any other way."""
    steps = step["pretokenizers"] if step and step["type"] == "Sequence" else [step]
    found: list[str] = []
    for step in steps:
        kind = step["type"] if step else None
        if kind == "Split" and "Regex" in step["pattern"] and _cuts_at_matches(step):
            found.append(_canonical(step["pattern"]["Regex"]))
        elif kind == "Digits" and step.get("individual_digits"):
            found.append(r"\p{N}")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            found += [_GPT2] if step.get("use_regex", True) else []
        else:
            return None
    return tuple(found) if steps[-1]["type"] == "ByteLevel" else None


def _cuts_at_matches(step: Mapping[str, Any]) -> bool:
    """Both ways in which tokenizers are written where the expressions cover every text."""
    inverted = bool(step.get("invert"))
    return (step["behavior"] == "Isolated" and not inverted) or (step["behavior"] == "Removed" and inverted)


def _canonical(pattern: str) -> str:
    return pattern.replace("\r", r"\r").replace("\n", r"\n")
