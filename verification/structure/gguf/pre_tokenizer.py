"""Whether the pre-tokenizer that a GGUF file names cuts text into words as its source's tokenizer.json does.

llama.cpp has the regular expressions in its code (src/llama-vocab.cpp), by name; several names share them. Of names
whose expressions are not stated here nothing is said but whether llama.cpp knows them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import regex

_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST = r"[^\r\n\p{L}\p{N}]?"


def _by_words(digits: str, suffixes: str = _SUFFIXES + "|") -> str:
    return rf"{suffixes}{_FIRST}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDS}"


def _by_case(digits: str, suffixes: str) -> str:
    return (
        rf"{_FIRST}{_UPPER}*{_LOWER}+{suffixes}|{_FIRST}{_UPPER}+{_LOWER}*{suffixes}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"
    )


_CUTS: tuple[tuple[str, Sequence[str]], ...] = (
    (
        (
            "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 mpt olmo"
            " jais trillion granite-docling jina-v1-en"
            " jina-v2-code roberta-bpe"
        ),
        (_GPT2,),
    ),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", (r"\p{N}", _GPT2)),
    (
        (
            "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe"
            " chatglm-bpe glm4 glm5"
        ),
        (_by_words(r"\p{N}{1,3}"),),
    ),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2", (_by_words(r"\p{N}"),)),
    (
        "qwen35",
        (rf"{_SUFFIXES}|{_FIRST}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_ENDS}",),
    ),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", (_by_case(r"\p{N}{1,3}", f"{_SUFFIXES}?"),)),
    ("tekken", (_by_case(r"\p{N}", ""),)),
    (
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
        (
            r"\p{N}{1,3}",
            "[一-龥\u3040-ゟ゠-ヿ]+",
            (
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_ENDS}"
            ),
        ),
    ),
)
EXPRESSIONS: Mapping[str, Sequence[str]] = {name: cuts for names, cuts in _CUTS for name in names.split()}

_OTHERS = """
    afmoe bailingmoe bailingmoe2 bloom chameleon cohere2moe deepseek-coder deepseek-llm default exaone-moe falcon gemma4
    gpt3-finnish granite-embed-multi-311m granite-embed-multi-97m jais-2 kimi-k2 laguna llada-moe minicpm5 poro-chat
    sarvam-moe seed-coder spark2_5 superbpe tiny_aya ufakzeka viking whitespace youtu hybriddna
"""
NAMES = frozenset({*EXPRESSIONS, *_OTHERS.split()})
"""All that llama.cpp knows; it refuses a file with any other."""

_TELLING = (
    "I'm we'VE they'll don't it'd x's",
    "1 12 123 1234 1234567 3.14 1,000 v2.0 a1b22c333",
    "CamelCase HTTPServer parseXMLNow snake_case iPhone",
    "a  b   c    \n\n  d\n \n\te\r\n f ",
    "x=y+1; foo(bar)[0]->baz !== 'q' </tag>\n// note\n/* c */\n\n#define X\n?!\n",
)


def cut(name: str, text: str) -> list[int]:
    """Where words begin, by each expression in turn: matches and what lies between them."""
    pieces = [(0, len(text))]
    for expression in EXPRESSIONS[name]:
        found: list[tuple[int, int]] = []
        for start, stop in pieces:
            at = start
            for match in regex.finditer(expression, text[start:stop]):
                first, last = start + match.start(), start + match.end()
                found += [(at, first)] if first > at else []
                found += [(first, last)] if last > first else []
                at = last
            found += [(at, stop)] if stop > at else []
        pieces = found
    return [start for start, _ in pieces]


def mistaken(name: str, pre_tokenizer: Any) -> str | None:
    """The first of some telling texts that the named pre-tokenizer cuts otherwise; None where it cuts all alike, or
    nothing is known. pre_tokenizer: of a `tokenizers.Tokenizer`."""
    if name not in EXPRESSIONS or pre_tokenizer is None:
        return None
    for text in _TELLING:
        theirs = [begins for _, (begins, ends) in pre_tokenizer.pre_tokenize_str(text) if ends > begins]
        if theirs != cut(name, text):
            return text
    return None
