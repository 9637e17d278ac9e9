"""Which of llama.cpp's named pre-tokenizers a tokenizer.json's own is: how text is cut into words before BPE merges.

llama.cpp holds the cutting in code, under a name that a file gives in `tokenizer.ggml.pre`. Its converter finds
the name by hashing the tokens of a test text, so that every new vocabulary is unknown at first. But cutting does not
depend on the vocabulary: here the tokenizer's own pre-tokenizer cuts a set of test texts, and the name is the one
whose regular expressions cut them alike, however the tokenizer.json words them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

from sixfold.boundary.tiktoken_model import KIMI
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

KNOWN: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "gpt-2": ((_GPT2,), False),
    "smollm": ((r"\p{N}", _GPT2), False),
    "smaug-bpe": ((_LLAMA3,), False),
    "llama-bpe": ((_LLAMA3,), True),
    "qwen2": ((_QWEN2,), False),
    "qwen35": ((_QWEN35,), False),
    "gpt-4o": ((_GPT4O,), False),
    "tekken": ((_TEKKEN,), True),
    "kimi-k2": ((KIMI,), False),
    "deepseek-v3": ((r"\p{N}{1,3}", _CJK, _DEEPSEEK), False),
}
"""llama.cpp's name -> (regular expressions in turn, whether whole words of the vocabulary skip the merges). Several of
its names mean the same cutting; the one without other effects is listed here."""

_OWN_NAMES = {
    ("gpt-4o", "minimax-m2"): "minimax-m2",
    ("llama-bpe", "glm4moe"): "glm4",
    ("llama-bpe", "glm5-next"): "glm4",
}
"""(cutting, architecture) -> the family's own name for it, where it has one."""

_TELLING = (
    "I'm we'VE they'll 'tis O'Neill's don'T it'd x's",
    "1 12 123 1234 12345 1234567 3.14 1,000,000 v2.0 a1b22c333 ½Ⅷ ٣٤٥ ४५६७",
    "CamelCase HTTPServer parseXMLNow snake_case iPhone ALLCAPS Ǆword ßtraße ʰʲ",
    "a  b   c    \n\n  d\n \n\te\r\n\r\n f \t\t g   ",
    "x=y+1; foo(bar)[0]->baz !== 'q' \"w\" </tag>\n// note\n/* c */\n\n#define X\n...\n?!\n",
    "$100 #tag @you .hidden -flag _x (paren) ¿qué? «où» €5 +a =b",
    "日本語テスト中文字符 한국어 mixed中文words 東京2020年 カタカナ",
    "नमस्ते दुनिया e\u0301te\u0301 ก็ดี שָׁלוֹם",
    "привет Мир ΑΒΓ αβγ Ünïcödé ÅÄÖ",
    "🙂🙃 ok👍🏽 👩\u200d💻 \u00a0nbsp\u2003em \u3000wide\u200b",
)


def pre_tokenizer_name(tokenizer: Tokenizer, model: Mapping[str, Any], arch: str) -> str:
    """llama.cpp's name. model: the "model" of its tokenizer.json. arch: llama.cpp's architecture.

    Raises SixfoldError where llama.cpp has no such pre-tokenizer that is known here.
    """
    cuts = _cuts(tokenizer.pre_tokenizer)
    alike = [name for name in KNOWN if cuts is not None and cuts == _known_cuts(name)]
    whole_words = bool(model.get("ignore_merges"))
    alike.sort(key=lambda name: KNOWN[name][1] != whole_words)
    if not alike:
        raise SixfoldError(
            "this tokenizer.json cuts text into words unlike any of llama.cpp's pre-tokenizers known here"
            f" ({', '.join(KNOWN)})",
            "set options.tokenizer_pre in the recipe to the name that llama.cpp has for it",
        )
    return _OWN_NAMES.get((alike[0], arch), alike[0])


@cache
def _known_cuts(name: str) -> tuple[tuple[str, ...], ...] | None:
    splits: list[Any] = [pre_tokenizers.Split(Regex(split), "isolated") for split in KNOWN[name][0]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _cuts(pre_tokenizers.Sequence([*splits, byte_level]))


def _cuts(pre_tokenizer: Any) -> tuple[tuple[str, ...], ...] | None:
    """The words of each test text, as a byte-level vocabulary spells them; None without a pre-tokenizer."""
    if pre_tokenizer is None:
        return None
    return tuple(tuple(word for word, _ in pre_tokenizer.pre_tokenize_str(text)) for text in _TELLING)
