"""Multi-token prediction layers in GGUF files: all of them, at more bits, and verified like any other tensor."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from gguf import GGUFReader

from sixfold.checkpoint.config_fields import draft_layers
from sixfold.model.source import open_source
from tests import every_family
from tests.drafts import add_drafts, add_drafts_of_two
from tests.exporters.exported import silent
from tests.exporters.ggml.gguf_tools import export, keys_of, recipe
from tests.verification.damage import GgufData, rewrite_gguf
from verification.verify import verify

STYLES: dict[str, tuple[Callable[[Path], Path], set[str], set[str]]] = {
    "glm4_moe": (add_drafts, {"blk.3."}, set()),
    "qwen3_5_moe": (partial(add_drafts, around=True, stacked=True), {"blk.3."}, set()),
    "nemotron_h": (add_drafts_of_two, {"blk.2.", "blk.3."}, {"post_attention_norm.weight"}),
}
"""How they are made, which blocks' tensors they have, and what beside these."""


@pytest.fixture(scope="module", params=STYLES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """layer 4 is the MTP layer."""
    made = every_family.make_family(request.param, tmp_path_factory.mktemp(request.param) / "model")
    return STYLES[request.param][0](made)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return export(open_source(folder), recipe("Q4_K_M", imatrix=False), folder.parent)[1]


def test_they_are_held_at_more_bits(folder: Path, file: Path) -> None:
    keys = {key.partition(".")[2]: value for key, value in keys_of(file).items()}
    assert (keys["block_count"], keys["nextn_predict_layers"]) == (5, 1)
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    behind = {
        name.removeprefix("blk.4."): t.tensor_type.name for name, t in tensors.items() if name.startswith("blk.4.")
    }
    _, blocks, more = next(style for family, style in STYLES.items() if family in folder.parent.name)
    like = {name[len("blk.3.") :] for name in tensors if name[: len("blk.3.")] in blocks}
    joined = {f"nextn.{part}.weight" for part in ("eh_proj", "enorm", "hnorm", "shared_head_norm")}
    assert behind.keys() == like | joined | more
    assert {kind for name, kind in behind.items() if not re.search(r"norm|bias|gate_inp", name)} == {"Q8_0"}
    assert "Q4_K" in {t.tensor_type.name for name, t in tensors.items() if name.startswith("blk.3.")}


def test_they_are_verified(folder: Path, file: Path) -> None:
    source = open_source(folder)
    for against in (None, source):
        found = verify(file, against, silent).findings
        assert [f for f in found if f.check not in ("keys.tokenizer", "divergence.not-measured")] == []


def _gone(name: str) -> Callable[[GgufData], object]:
    return lambda data: data.pop(name)


def _swapped(name: str) -> Callable[[GgufData], object]:
    return lambda data: data[name][0].__setitem__([0, 1], data[name][0][[1, 0]])


STORED = {
    "blk.4.nextn.hnorm.weight": ("layers.4.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.layers.0.hnorm.weight"),
    "blk.4.attn_q.weight": (
        "layers.4.self_attn.q_proj.weight",
        "mtp.layers.0.self_attn.q_proj.weight",
        "mtp.layers.0.mixer.q_proj.weight",
    ),
    "blk.4.nextn.eh_proj.weight": ("layers.4.eh_proj.weight", "mtp.fc.weight", "mtp.layers.0.eh_proj.weight"),
    "blk.4.ffn_down_exps.weight": (
        "layers.4.mlp.experts.0.down_proj.weight",
        "mtp.layers.1.mixer.experts.0.down_proj.weight",
    ),
}
"""As the source calls them."""


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_gone, "blk.4.nextn.hnorm.weight"),
        (_gone, "blk.4.attn_q.weight"),
        (_swapped, "blk.4.nextn.eh_proj.weight"),
        (_swapped, "blk.4.ffn_down_exps.weight"),
    ],
)
def test_what_is_done_to_them_is_found(
    change: Callable[[str], Callable[[GgufData], object]], name: str, folder: Path, file: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / file.name
    damaged.write_bytes(file.read_bytes())
    rewrite_gguf(damaged, tensors=lambda data: (change(name)(data), None)[1])
    found = [f for f in verify(damaged, open_source(folder), silent).findings if f.severity == "error"]
    if name.endswith("_exps.weight") and not found:
        assert "mtp.layers.0.mlp.experts.down_proj" in open_source(folder).checkpoint.tensors  # one array: not compared
        return
    assert any(where in f.where for f in found for where in (name, *STORED[name])), found


def test_what_is_declared_and_not_there_is_said(tmp_path: Path) -> None:
    """As most fine-tunes are published: transformers saves no such layers, and their files are sound."""
    made = every_family.make_family("glm4_moe", tmp_path / "model", num_nextn_predict_layers=1)
    source = open_source(made)
    assert draft_layers(source.checkpoint.config) == 1
    plan, file = export(source, recipe("BF16"), tmp_path)
    assert "config.json declares MTP layers (1), and the file holds none" in plan.notes
    assert keys_of(file)["glm4moe.block_count"] == 4
