"""Whatever is done to the file that llama.cpp sees with is found, and the right tensor or key is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from sixfold.artifact.manifest import file_record, inputs_of, manifest_of
from sixfold.artifact.workspace import write_json
from sixfold.model.source import Source, open_source
from tests.exporters.exported import silent
from tests.exporters.ggml.gguf_tools import export, recipe
from tests.made_once import made_once
from tests.seeing_families import make_seeing
from tests.verification.damage import GgufData, rewrite_gguf
from verification.reading.held_source import HeldSource
from verification.structure.projector.checks import check_projector
from verification.verify import verify

NAME = "mmproj-eyes-BF16.gguf"


def _made(root: Path) -> None:
    folder = make_seeing("pixtral", root / "eyes")
    export(open_source(folder), recipe("BF16"), root / "out")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "pixtral", _made)


@pytest.fixture(scope="module")
def source(made: Path) -> Source:
    return open_source(made / "eyes")


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    (tmp_path / NAME).write_bytes((made / "out" / NAME).read_bytes())
    return tmp_path / NAME


def tensors(change: Callable[[GgufData], Any]) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, tensors=lambda data: (change(data), None)[1])


def keys(**changed: Any) -> Callable[[Path], None]:
    return lambda path: rewrite_gguf(path, {f"clip.{key.replace('__', '.')}": value for key, value in changed.items()})


def _swap(one: str, other: str) -> Callable[[Path], None]:
    def change(data: GgufData) -> None:
        data[one], data[other] = data[other], data[one]

    return tensors(change)


def _bit(data: GgufData) -> None:
    data["mm.1.weight"][0].view(np.uint8).reshape(-1)[5] ^= 1


def _in_halves(data: GgufData) -> None:
    """Rows of queries as transformers has them."""
    rows, kind = data["v.blk.1.attn_q.weight"]
    heads = rows.reshape(4, -1, 2, rows.shape[-1])
    data["v.blk.1.attn_q.weight"] = np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape), kind


def _infinite(data: GgufData) -> None:
    data["v.pre_ln.weight"][0].view(np.float32)[3] = np.inf


def _norm_in_16_bits(data: GgufData) -> None:
    held = data["v.blk.0.ln1.weight"][0].view(np.float32)
    data["v.blk.0.ln1.weight"] = held.astype(np.float16), GGMLQuantizationType.F16


def _renamed(data: GgufData) -> None:
    data["v.blk.2.attn_k_proj.weight"] = data.pop("v.blk.2.attn_k.weight")


DAMAGES: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    "another layer's matrix": (_swap("v.blk.0.attn_v.weight", "v.blk.1.attn_v.weight"), "v.blk.0.attn_v.weight", False),
    "keys for queries": (_swap("v.blk.0.attn_q.weight", "v.blk.0.attn_k.weight"), "v.blk.0.attn_k.weight", False),
    "one bit": (tensors(_bit), "mm.1.weight", False),
    "rows in transformers' order": (tensors(_in_halves), "v.blk.1.attn_q.weight", False),
    "what is no number": (tensors(_infinite), "v.pre_ln.weight", True),
    "a norm in 16 bits": (tensors(_norm_in_16_bits), "v.blk.0.ln1.weight", True),
    "a tensor gone": (tensors(lambda data: data.pop("v.blk.3.ln2.weight")), "v.blk.3.ln2.weight", True),
    "the projector gone": (
        tensors(lambda data: data.pop("mm.2.weight")),
        "multi_modal_projector.linear_2.weight",
        False,
    ),
    "another name": (tensors(_renamed), "v.blk.2.attn_k_proj.weight", True),
    "another token's row": (tensors(lambda d: d["v.token_embd.img_break"][0].sort()), "v.token_embd.img_break", False),
    "fewer heads": (keys(vision__attention__head_count=2), "clip.vision.attention.head_count", False),
    "other colors": (keys(vision__image_mean=[0.5, 0.5, 0.5]), "clip.vision.image_mean", False),
    "another activation": (keys(use_gelu=False), "clip.use_gelu", False),
    "a layer more": (keys(vision__block_count=5), "v.blk.4.attn_k.weight", True),
    "another kind": (keys(projector_type="gemma3"), "v.blk.0.ffn_gate.weight", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damages_are_found(name: str, damaged: Path, source: Source) -> None:
    """The third of each says whether it shows in the file itself."""
    do, where, alone = DAMAGES[name]
    do(damaged)
    found = check_projector(damaged, HeldSource(source, torch.device("cpu")))
    assert where in {finding.where for finding in found if finding.severity == "error"}
    shown = {finding.where for finding in check_projector(damaged, None)}
    assert (where in shown) == alone


def test_a_sound_file(made: Path, source: Source) -> None:
    assert check_projector(made / "out" / NAME, HeldSource(source, torch.device("cpu"))) == []
    assert verify(made / "out" / NAME, source, silent).findings == ()


def test_a_truncated_file(damaged: Path) -> None:
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (found,) = check_projector(damaged, None)
    assert found.check == "files.header"


def test_the_artifact_that_lists_it_fails_with_it(made: Path, source: Source, tmp_path: Path) -> None:
    for file in (made / "out").glob("*.gguf"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model, sees = tmp_path / "eyes-BF16.gguf", tmp_path / NAME

    def listed() -> None:
        files = {path.name: file_record(path) for path in (model, sees)}
        manifest = manifest_of("gguf-bf16", "eyes", inputs_of(recipe("BF16"), "0", "", None), None, files, ())
        write_json(tmp_path / f"{model.name}.manifest.json", manifest)

    listed()
    result = verify(model, source, silent)
    assert result.failures == ()
    assert set(result.files) == {model.name, NAME}
    tensors(_bit)(sees)
    listed()
    assert [finding.where for finding in verify(model, source, silent).failures] == ["mm.1.weight"]
