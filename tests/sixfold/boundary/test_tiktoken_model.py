"""A tokenizer of tiktoken's ranks alone, against byte pair encoding by its definition."""

import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from gguf import GGUFWriter, TokenType
from transformers.convert_slow_tokenizer import bytes_to_unicode

from exporters.ggml.header.pre_tokenizer import pre_tokenizer_name
from exporters.ggml.header.tokenizer import write_tokenizer
from sixfold.boundary.tiktoken_model import KIMI, tiktoken_tokenizer
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from tests.exporters.ggml.gguf_tools import HARD, byte_level_tokenizer

SETTINGS = {
    "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "chat_template": "{{ messages[0].content }}",
}


def ranks() -> dict[bytes, int]:
    """Bytes, and what a trained tokenizer has merged, in its order."""
    bytes_of = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
    merges = json.loads(byte_level_tokenizer([KIMI], size=900).to_str())["model"]["merges"]
    merged = [b"".join(bytes_of[letter] for letter in "".join(pair)) for pair in merges]
    return {token: rank for rank, token in enumerate(dict.fromkeys([*(bytes([n]) for n in range(256)), *merged]))}


def encoded(text: str, known: dict[bytes, int]) -> list[int]:
    """tiktoken's definition: of each word, the pair of the lowest rank is joined until none is ranked."""
    found = []
    for word in regex.findall(KIMI, text, regex.V1):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            joined = [known.get(a + b, 1 << 30) for a, b in pairwise(parts)]
            if min(joined) == 1 << 30:
                break
            at = joined.index(min(joined))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [known[part] for part in parts]
    return found


def folder_of(folder: Path, known: dict[bytes, int]) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in known.items()]
    (folder / "tiktoken.model").write_text("\n".join(lines))
    named = {str(len(known)): {"content": "[BOS]"}, str(len(known) + 1): {"content": "[EOS]"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**SETTINGS, "added_tokens_decoder": named}))
    return folder


def test_tokens_are_tiktokens(tmp_path: Path) -> None:
    known = ranks()
    tokenizer = load_tokenizer(folder_of(tmp_path, known))
    for text in [*HARD, "中文words中文 don't DON'T Ünï東京2020年"]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == encoded(text, known), text
    assert tokenizer("[EOS]")["input_ids"] == [len(known) + 1] == [tokenizer.eos_token_id]
    assert tokenizer.convert_ids_to_tokens(len(known) + 7) == f"<|reserved_token_{len(known) + 7}|>"
    assert len(tokenizer) == len(known) + 256
    assert tokenizer.chat_template == SETTINGS["chat_template"]
    assert pre_tokenizer_name(tokenizer.backend_tokenizer, {}, "deepseek2") == "kimi-k2"


def test_a_gguf_file_has_them(tmp_path: Path) -> None:
    """Merges, kinds of tokens and the name of the pre-tokenizer, as llama.cpp's converter writes Kimi-K2."""
    known, writer = ranks(), GGUFWriter(None, "deepseek2")
    write_tokenizer(writer, folder_of(tmp_path, known), "deepseek2", len(known) + 260, None, begins=None)
    keys = {name.removeprefix("tokenizer.ggml."): held.value for name, held in writer.kv_data[0].items()}
    assert (keys["model"], keys["pre"]) == ("gpt2", "kimi-k2")
    letters = bytes_to_unicode()
    assert keys["tokens"][: len(known)] == ["".join(letters[byte] for byte in token) for token in known]
    assert keys["tokens"][len(known)] == "[BOS]"
    kinds = [TokenType.NORMAL] * len(known) + [TokenType.CONTROL] * 256 + [TokenType.UNUSED] * 4
    assert keys["token_type"] == kinds
    assert ["".join(merge.split(" ")) for merge in keys["merges"]] == keys["tokens"][256 : len(known)]


@pytest.mark.parametrize("line", ["YQ==", "a 1", "YQ== one", "YWI= 9999"])
def test_ranks_that_cannot_be_read(line: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ranks())
    with (folder / "tiktoken.model").open("a") as file:
        file.write(f"\n{line}")
    with pytest.raises(SixfoldError, match=r"tiktoken\.model"):
        tiktoken_tokenizer(folder)


def test_ranks_of_a_tokenizer_that_is_not_known(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ranks())
    (folder / "tokenizer_config.json").write_text("{}")
    assert tiktoken_tokenizer(folder) is None
