"""Tokens that llama.cpp's converter gives a meaning by their text are no false alarm, and others are found."""

from pathlib import Path

import pytest

from sixfold.model.source import open_source
from tests import every_family
from tests.exporters.exported import silent
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.verification.damage import rewrite_gguf
from verification.verify import verify


@pytest.mark.parametrize("family", ["glm4", "glm4_moe_lite"])
def test_turns_of_glm_end_with_its_user_token(family: str, tmp_path: Path) -> None:
    folder = every_family.make_family(family, tmp_path / "model")
    tokenizer = byte_level_tokenizer([], size=300)
    tokenizer.add_special_tokens(["[gMASK]", "<|user|>", "<|observation|>"])
    save_tokenizer(tokenizer, folder)
    source = open_source(folder)
    _, file = export(source, recipe("BF16"), tmp_path)
    assert [f for f in verify(file, source, silent).findings if f.check == "keys.tokenizer"] == []
    rewrite_gguf(file, keys={"tokenizer.ggml.eot_token_id": 302})
    (found,) = [f for f in verify(file, source, silent).findings if f.check == "keys.tokenizer"]
    assert found.where == "tokenizer.ggml.eot_token_id"
