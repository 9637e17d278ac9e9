"""The vocabulary of a GGUF file, `tokenizer.ggml.*`: tokens, merges or scores, special tokens, chat template.

Everything is taken from tokenizer.json, which is what transformers tokenizes with; gguf-py's SpecialVocab reads the
special tokens and the chat template from the files beside it.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from tokenizers import Tokenizer

from exporters.ggml.header.pre_tokenizer import pre_tokenizer_name
from sixfold.boundary.tiktoken_model import tiktoken_tokenizer
from sixfold.boundary.tokenizer_json import read_tokenizer_json
from sixfold.errors import SixfoldError

FILE = "tokenizer.json"
_SPACE = "\u2581"
_BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}

_BY_MERGES = "gemma4"
"""Architecture, and name of its tokenizer: text with a mark for spaces, put together by merges and not by scores."""

_VISIBLE = frozenset('<|channel> <channel|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> <|"|>'.split())
"""Special tokens of Gemma 4 that readers of its answers look for."""

_GLM_SPECIAL = {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
"""What the turns of GLM-4.5 begin and end with; its files do not say so in a way that SpecialVocab reads."""

_GLM_4_SPECIAL = {"bos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
_SPECIAL = {
    **dict.fromkeys(("glm4moe", "glm-dsa", "glm5-next", "deepseek2"), _GLM_SPECIAL),
    **dict.fromkeys(("glm4", "chatglm"), _GLM_4_SPECIAL),
}


@dataclass(frozen=True)
class _Token:
    text: str
    kind: TokenType


def write_tokenizer(
    writer: GGUFWriter, folder: Path, arch: str, vocab_size: int, pre: str | None, *, begins: bool | None
) -> None:
    """Add all `tokenizer.*` keys. vocab_size: rows of the embedding; ids beyond the vocabulary become padding tokens.

    pre: llama.cpp's name of the pre-tokenizer, None to recognize it. begins: whether texts begin with a token where
    the tokenizer's files do not say, None not to say so either. Raises SixfoldError where the tokenizer is of a
    kind that llama.cpp does not have, or is not recognized.
    """
    parsed, tokenizer = _read(folder)
    model = parsed["model"]
    tokens = _tokens(folder, parsed, tokenizer, vocab_size)
    if model.get("type") != "BPE":
        raise SixfoldError(
            f"{folder / FILE} is a tokenizer of type {model.get('type')}, GGUF export supports only BPE",
            "leave the gguf recipes out for this model",
        )
    spaces, by_merges = _is_sentence_piece(parsed), arch == _BY_MERGES
    if by_merges:
        tokens = [replace(t, kind=TokenType.USER_DEFINED) if t.text in _VISIBLE else t for t in tokens]
        writer.add_tokenizer_model(_BY_MERGES)
    elif spaces:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre(pre or "default")
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre or pre_tokenizer_name(tokenizer, model, arch))
    writer.add_token_list([token.text for token in tokens])
    if spaces:
        writer.add_token_scores([-1000.0] * len(tokens) if by_merges else _scores(model, tokens))
        if by_merges or not _begins_with_space(parsed):
            writer.add_add_space_prefix(False)
    writer.add_token_types([token.kind for token in tokens])
    _write_special(writer, folder, parsed, arch, merges=by_merges or not spaces, begins=begins)


def _read(folder: Path) -> tuple[dict[str, Any], Any]:
    path = folder / FILE
    if not path.is_file():
        ranked = tiktoken_tokenizer(folder)
        if ranked is not None:
            return json.loads(ranked.to_str()), ranked
        raise SixfoldError(
            f"there is no {FILE} in {folder}, and a GGUF file must hold its tokenizer",
            "save the tokenizer with transformers' AutoTokenizer.save_pretrained into the model folder",
        )
    return read_tokenizer_json(path)


def _tokens(folder: Path, parsed: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> list[_Token]:
    """One per id from 0 to vocab_size - 1."""
    by_id = {index: text for text, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    if not by_id:
        raise SixfoldError(f"{folder / FILE} has no tokens", "copy it from the base model")
    if max(by_id) >= vocab_size:
        raise SixfoldError(
            f"{folder / FILE} has token {max(by_id)}, but the embedding has {vocab_size} rows",
            "check that tokenizer and weights belong together",
        )
    added, pieces = tokenizer.get_added_tokens_decoder(), _is_sentence_piece(parsed)
    unknown = parsed["model"].get("unk_token")
    tokens = []
    for index in range(vocab_size):
        text = by_id.get(index)
        if text is None:
            tokens.append(_Token(f"[PAD{index}]", TokenType.UNUSED))
        elif index in added:
            token = added[index]
            if not token.normalized:
                # llama.cpp takes special and user tokens for normalized already.
                text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
            if token.special or _looks_special(text):
                tokens.append(_Token(text, TokenType.CONTROL))
            else:
                tokens.append(_Token(text.replace(_SPACE, " "), TokenType.USER_DEFINED))
        elif pieces and text in _BYTE_TOKENS:
            tokens.append(_Token(text, TokenType.BYTE))
        else:
            tokens.append(_Token(text, TokenType.UNKNOWN if text == unknown else TokenType.NORMAL))
    return tokens


def _is_sentence_piece(parsed: Mapping[str, Any]) -> bool:
    """Whether tokens are text with a mark for spaces, and bytes stand in for what the vocabulary lacks.

    A byte-level vocabulary lacks nothing: where its tokenizer.json asks for byte_fallback too, that never happens.
    """
    by_bytes = '"ByteLevel"' in json.dumps([parsed.get("pre_tokenizer"), parsed.get("decoder")])
    return bool(parsed["model"].get("byte_fallback")) and not by_bytes


def _looks_special(text: str) -> bool:
    """Control tokens that their tokenizer.json does not mark as such: the same list as llama.cpp's converter."""
    if text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    pairs = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return any(text.startswith(first) and text.endswith(last) for first, last in pairs)


def _scores(model: Mapping[str, Any], tokens: list[_Token]) -> list[float]:
    """llama.cpp merges the pair with the highest score first: minus the rank of the merge that makes a token.

    These are SentencePiece's own scores where tokenizer.json was made from a SentencePiece model. Tokens that no merge
    makes come last.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    return [float(-ranks.get(token.text, len(ranks))) for token in tokens]


def _begins_with_space(parsed: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text (SentencePiece's dummy prefix)."""
    text = json.dumps([parsed.get("normalizer"), parsed.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"prepend_scheme": "always"' in text


def _write_special(
    writer: GGUFWriter, folder: Path, parsed: Mapping[str, Any], arch: str, *, merges: bool, begins: bool | None
) -> None:
    try:
        special = SpecialVocab(folder, load_merges=merges)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise SixfoldError(
            f"the special tokens of {folder} cannot be read ({type(error).__name__}: {error})",
            "copy tokenizer.json, tokenizer_config.json and generation_config.json from the base model",
        ) from None
    if arch in _SPECIAL:
        ids = {token["content"]: token["id"] for token in parsed.get("added_tokens", [])}
        for kind, text in _SPECIAL[arch].items() if "[gMASK]" in ids else ():
            if text in ids:
                special.special_token_ids.setdefault(kind, ids[text])
    if merges and not special.merges:  # of ranks, which SpecialVocab does not read
        special.merges = [" ".join(pair) for pair in parsed["model"]["merges"]]
    if begins is not None:
        special.add_special_token.setdefault("bos", begins)
    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
    special.add_to_gguf(writer, quiet=True)
