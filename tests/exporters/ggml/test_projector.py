"""What a model sees with, in a GGUF file of its own: which one, what of the checkpoint it holds, and what is refused.
That llama.cpp's converter writes the same is a matter of tests/engines."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exporters.gguf import EXPORTER
from sixfold.artifact.plan import ExportPlan, bytes_together
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from tests.exporters.ggml.gguf_tools import export, keys_of, recipe, tensors_of
from tests.made_once import made_once
from tests.seeing_families import PROCESSOR, make_seeing

NAME = "mmproj-eyes-BF16.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "qwen3-vl", lambda root: make_seeing("qwen3_vl", root / "eyes")) / "eyes"


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "eyes"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def plan(folder: Path, **options: object) -> ExportPlan:
    return EXPORTER.plan(open_source(folder), recipe("Q8_0", imatrix=False, **options), None)


def test_the_file_holds_all_that_the_model_sees_with(model: Path, tmp_path: Path) -> None:
    planned, first = export(open_source(model), recipe("BF16"), tmp_path)
    file = first.with_name(NAME)
    (sees,) = [f for f in planned.files if f.name == NAME]
    assert file.stat().st_size == sees.nbytes
    held = {name: (kind, shape[::-1], data) for name, (kind, shape, data) in tensors_of(file).items()}
    assert held == {
        t.name: (t.dtype, t.shape, file.read_bytes()[t.offset : t.offset + t.nbytes])
        for t in planned.tensors
        if t.file == NAME
    }
    stored = {name: t for name, t in load_file(model / "model.safetensors").items() if "visual" in name}
    patches = stored.pop("model.visual.patch_embed.proj.weight")
    for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
        kind, shape, data = held.pop(name)
        assert (kind, shape) == ("F32", (64, 3, 16, 16))  # llama.cpp cannot convolve in BF16
        assert data == patches[:, :, frame].float().contiguous().numpy().tobytes()
    assert len(held) == len(stored)
    for name, known in (
        ("blocks.3.attn.qkv.weight", "v.blk.3.attn_qkv.weight"),
        ("blocks.3.mlp.linear_fc1.weight", "v.blk.3.ffn_up.weight"),
        ("merger.linear_fc2.weight", "mm.2.weight"),
        ("deepstack_merger_list.1.linear_fc1.weight", "v.deepstack.3.fc1.weight"),  # behind the fourth layer
    ):
        tensor = stored[f"model.visual.{name}"]
        assert held[known] == ("BF16", tuple(tensor.shape), tensor.view(torch.uint8).numpy().tobytes()), name
    for name, known in (("merger.norm.bias", "v.post_ln.bias"), ("pos_embed.weight", "v.position_embd.weight")):
        tensor = stored[f"model.visual.{name}"].float()
        assert held[known] == ("F32", tuple(tensor.shape), tensor.numpy().tobytes()), name


def test_its_keys(model: Path, tmp_path: Path) -> None:
    _, first = export(open_source(model), recipe("Q8_0", imatrix=False), tmp_path)
    keys = keys_of(first.with_name(NAME))
    assert keys["general.architecture"] == "clip"
    assert keys["clip.projector_type"] == "qwen3vl_merger"
    assert keys["clip.vision.image_size"] == 64  # 4 x 4 positions of 16 pixels a side
    assert keys["clip.vision.is_deepstack_layers"] == [False, True, False, True]
    assert keys["clip.vision.projection_dim"] == 256
    assert keys["clip.vision.image_std"] == pytest.approx(PROCESSOR["image_std"])


def test_it_is_shared_by_all_quants_of_a_folder(model: Path) -> None:
    source = open_source(model)
    plans = [EXPORTER.plan(source, recipe(scheme), None) for scheme in ("Q8_0", "BF16")]
    (sees,) = {file for plan in plans for file in plan.files if file.shared}
    assert sees.name == NAME
    assert all(plan.nbytes - plan.own_nbytes == sees.nbytes for plan in plans)
    assert bytes_together(plans) == sum(plan.own_nbytes for plan in plans) + sees.nbytes
    assert f"pictures: {NAME} (qwen3vl_merger), which llama.cpp takes as --mmproj" in plans[0].notes
    assert not [note for note in plans[0].notes if "visual" in note]  # nothing of it is said to be left out


def test_in_f16_and_without(model: Path) -> None:
    in_f16 = plan(model, projector="F16")
    assert in_f16.files[-1].name == "mmproj-eyes-F16.gguf"
    assert {t.dtype for t in in_f16.tensors if t.name.startswith("v.patch_embd.weight")} == {"F16"}
    without = plan(model, projector="none")
    assert [file.name for file in without.files] == ["eyes-Q8_0.gguf"]


def edit(folder: Path, file: str, **fields: object) -> None:
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **fields}))


def of(source: Source, names: Callable[[str], str]) -> ExportPlan:
    """With other names of tensors; "" for one that is not there. To open such a checkpoint is refused, where
    transformers' class asks for them."""
    tensors = source.checkpoint.tensors
    named = {new: replace(tensor, name=new) for name, tensor in tensors.items() if (new := names(name))}
    return EXPORTER.plan(
        replace(source, checkpoint=replace(source.checkpoint, tensors=named)), recipe("Q8_0", imatrix=False), None
    )


def test_no_empty_file_is_written(model: Path) -> None:
    """Of a checkpoint whose config.json speaks of a tower, and that has the language model alone."""
    planned = of(open_source(model), lambda name: "" if "visual" in name else name)
    assert len(planned.files) == 1
    assert "no projector for pictures: the checkpoint has the language model alone" in planned.notes


def test_a_tower_that_was_cut_is_refused(model: Path) -> None:
    with pytest.raises(SixfoldError, match="4 layers that see or hear, and layer 2 has no tensors"):
        of(open_source(model), lambda name: "" if "visual.blocks.2." in name else name)


def test_the_language_model_goes_without_what_llama_cpp_does_not_run(model: Path) -> None:
    planned = of(open_source(model), lambda name: name.replace("visual.merger.norm", "visual.merger.gate"))
    assert len(planned.files) == 1
    (said,) = [note for note in planned.notes if "projector" in note]
    assert re.search(r"no projector for pictures: llama\.cpp has no name for model\.visual\.merger\.gate\.\w+ in", said)


def test_what_prepares_pictures_is_needed(copied: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    planned = plan(copied)
    assert len(planned.files) == 1
    assert any(note.startswith("no projector for pictures: the checkpoint has no prepro") for note in planned.notes)


def test_what_config_json_lacks_is_said(copied: Path) -> None:
    edit(copied, "preprocessor_config.json", image_mean=None)
    with pytest.raises(SixfoldError, match=r"preprocessor_config\.json has no image_mean"):
        plan(copied)


@pytest.mark.parametrize("field", [{"image_mean": "white"}, {"image_std": [{}]}, {"image_mean": 7}])
def test_what_makes_no_sense_is_said_in_a_sentence(copied: Path, field: dict[str, object]) -> None:
    edit(copied, "preprocessor_config.json", **field)
    with pytest.raises(SixfoldError, match=r"preprocessor_config\.json do not say, or say in another form"):
        plan(copied)
