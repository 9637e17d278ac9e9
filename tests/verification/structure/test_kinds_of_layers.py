"""Models whose layers are of several kinds: sound GGUF files of them, and tensors that one layer lost."""

from pathlib import Path
from typing import Any

import pytest

from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from tests import every_family
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.verification.damage import rewrite_gguf
from verification.verify import verify

NEMOTRON = {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]}
SOUND: dict[str, dict[str, Any]] = {
    "dbrx": {},
    "hrm_text": {"num_hidden_layers": 2},
    "minimax": {},
    "nemotron_h": NEMOTRON,
    "nemotron_h with experts of latents": {"moe_latent_size": 64},
    "phimoe": {},
}


def exported(family: str, folder: Path) -> tuple[Source, Path]:
    made = every_family.make_family(family.partition(" ")[0], folder / "model", **SOUND[family])
    save_tokenizer(byte_level_tokenizer([], size=300), made)
    source = open_source(made)
    return source, export(source, recipe("BF16"), folder)[1]


@pytest.mark.parametrize("family", SOUND)
def test_nothing_is_said_of_a_sound_file(family: str, tmp_path: Path) -> None:
    source, file = exported(family, tmp_path)
    for against in (None, source):
        assert verify(file, against, unseen).findings == ()


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("dbrx", "blk.1.ffn_down_exps.weight"),
        ("hrm_text", "blk.3.attn_gate.weight"),  # of the second stack
        ("minimax", "blk.1.attn_gate.weight"),  # of lightning attention
        ("minimax", "blk.2.attn_k.weight"),
        ("nemotron_h", "blk.1.ffn_up.weight"),
        ("phimoe", "blk.2.attn_output.bias"),
    ],
)
def test_a_tensor_that_a_layer_lost_is_missed_by_those_alike(family: str, lost: str, tmp_path: Path) -> None:
    _, file = exported(family, tmp_path)
    rewrite_gguf(file, tensors=lambda data: (data.pop(lost), None)[1])
    assert [(f.check, f.where) for f in verify(file, None, unseen).findings] == [("names.missing", lost)]
