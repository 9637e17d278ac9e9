"""The tokenizer of a checkpoint that has tiktoken's ranks and no tokenizer.json, as one of the `tokenizers` library.

How text is cut into words and which tokens are special is in Python code beside the ranks, which is never run: of Kimi
it is stated here.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from sixfold.boundary.json_text import read_json_file
from sixfold.errors import SixfoldError

FILE = "tiktoken.model"

_CODE = "tokenization_kimi"
_RESERVED = 256
"""Special tokens behind the ranks; those without a name are called by their number."""

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI = "|".join(
    (
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Words of Kimi-K2, as its tokenization_kimi.py has them."""


def tiktoken_tokenizer(folder: Path) -> Tokenizer | None:
    """None where the folder has no ranks, or those of a tokenizer that is not known here. Raises SixfoldError where
    they cannot be read."""
    settings = folder / "tokenizer_config.json"
    if not (folder / FILE).is_file() or not settings.is_file():
        return None
    stated = read_json_file(settings)
    if not isinstance(stated, Mapping) or _CODE not in json.dumps(stated.get("auto_map")):
        return None
    ranks = _ranks(folder / FILE)
    pairs = [_halves(token, ranks) for token in sorted(ranks, key=lambda token: ranks[token]) if len(token) > 1]
    merges = [(_text(pair[0]), _text(pair[1])) for pair in pairs if len(pair) == 2]
    tokenizer = Tokenizer(models.BPE({_text(token): rank for token, rank in ranks.items()}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(KIMI), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    named = _named(stated)
    reserved = (named.get(n, f"<|reserved_token_{n}|>") for n in range(len(ranks), len(ranks) + _RESERVED))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in reserved])
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank: of each line, in base64 and as a number."""
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise SixfoldError(
                f"{path} has a line that is no token and its rank: {line[:40]!r}", "download it again"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([n]) not in ranks for n in range(256)):
        raise SixfoldError(f"{path} does not rank all bytes, one token after another", "download it again")
    return ranks


def _named(stated: Mapping[str, Any]) -> dict[int, str]:
    listed = stated.get("added_tokens_decoder")
    tokens = listed.items() if isinstance(listed, Mapping) else ()
    return {int(n): str(token["content"]) for n, token in tokens if isinstance(token, Mapping) and n.isdecimal()}


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """What byte pair encoding has made of a token right before its last merge."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(one + other, len(ranks)) for one, other in pairwise(parts)]
        best = min(range(len(joined)), key=joined.__getitem__)
        if joined[best] >= ranks[token]:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _text(token: bytes) -> str:
    return "".join(_BYTES[byte] for byte in token)


def _byte_texts() -> list[str]:
    """GPT-2's letters for bytes: printable ones are their own, the others follow behind 255."""
    own = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in own]
    return [chr(byte if byte in own else 256 + others.index(byte)) for byte in range(256)]


_BYTES = _byte_texts()
