"""A model known from its config.json alone, held against the same model's checkpoint, tensor by tensor."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from exporters.export.planning import plan_all
from exporters.registry import exporter_named
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.bare_config import config_notes, described
from sixfold.model.source import Source, describe_source, open_source
from sixfold.recipes.recipe import load_recipes
from tests import every_family
from tests.families import FAMILIES, NOT_LAYER_BY_LAYER, make_family

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
PRUNED = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m-REAP-6"
RECIPES = load_recipes("all-formats", (), lambda name: exporter_named(name).Options)

Written = dict[str, tuple[str, tuple[int, ...], int, str]]


def stored(source: Source) -> dict[str, tuple[str, tuple[int, ...], int]]:
    return {t.name: (t.dtype, t.shape, t.nbytes) for t in source.checkpoint.tensors.values()}


def plans(source: Source) -> dict[str, Written | str]:
    """What every recipe would write of each tensor, or why it refuses."""
    found: dict[str, Written | str] = {}
    for entry in plan_all(source, RECIPES):
        if entry.plan is None:
            found[entry.recipe.name] = str(entry.refusal).split(" (")[0]  # in brackets, the first of many tensors
        else:
            tensors = entry.plan.tensors
            found[entry.recipe.name] = {t.name: (t.dtype, t.shape, t.nbytes, t.encoding) for t in tensors}
    return found


def config_file(folder: Path, config: Mapping[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "config.json")


@pytest.mark.parametrize("folder", [DEMO, PRUNED], ids=lambda folder: folder.name)
def test_the_config_of_a_bundled_model_plans_what_its_checkpoint_does(folder: Path) -> None:
    described, whole = describe_source(str(folder / "config.json")), open_source(folder)
    assert described.checkpoint.name == whole.checkpoint.name
    assert stored(described) == stored(whole)
    assert plans(described) == plans(whole)
    assert len(RECIPES) == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_of_a_family_plans_what_its_checkpoint_does(family: str, tmp_path: Path) -> None:
    """Where GGUF knows the family, its files hold a tokenizer, of which a config knows nothing."""
    folder = make_family(family, tmp_path / "model", vocab_size=2048)
    shutil.copy(DEMO / "tokenizer.json", folder)
    described, whole = describe_source(str(folder / "config.json")), open_source(folder)
    assert stored(described) == stored(whole)
    assert plans(described) == plans(whole)


@pytest.mark.parametrize("family", NOT_LAYER_BY_LAYER)
def test_the_config_of_an_unusual_family_describes_what_is_on_disk(family: str, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / "model")
    assert stored(describe_source(str(folder / "config.json"))) == stored(open_source(folder))


def test_layers_beside_a_tower_are_called_as_they_are_published(tmp_path: Path) -> None:
    """Kimi-K2.5: transformers saves the decoder's layers as "blocks" too, as the tower's are."""
    config = json.loads(every_family.tiny_config("kimi_k25").to_json_string())
    names = describe_source(config_file(tmp_path, config)).checkpoint.tensors
    assert "language_model.model.layers.3.self_attn.o_proj.weight" in names
    assert "vision_tower.encoder.blocks.1.wo.weight" in names
    assert not any(name.startswith("language_model.model.blocks") for name in names)


def test_they_are_called_as_transformers_saves_them_where_the_tensors_at_hand_are(tmp_path: Path) -> None:
    config = json.loads(every_family.tiny_config("kimi_k25").to_json_string())
    held = ["language_model.model.blocks.0.mlp.down_proj.weight_packed"]
    names = described(config, "here", tmp_path, name="tiny", held=held).tensors
    assert any(name.startswith("language_model.model.blocks.0.") for name in names)
    assert not any(name.startswith("language_model.model.layers.") for name in names)


@pytest.mark.parametrize(
    ("family", "field"),
    [("minimax_m2", "num_local_experts"), ("qwen3_moe", "num_experts"), ("glm4_moe", "n_routed_experts")],
)
def test_another_number_of_experts_describes_the_checkpoint_that_has_it(
    family: str, field: str, tmp_path: Path
) -> None:
    """Also where config.json leaves the number at its class's default."""
    folder = make_family(family, tmp_path / "three", **{field: 3})
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "more").mkdir()
    more = config_file(tmp_path / "more", config | {field: 7})
    assert stored(describe_source(more, experts=3)) == stored(open_source(folder))
    unsaid = config_file(tmp_path / "more", {key: value for key, value in config.items() if key != field})
    assert stored(describe_source(unsaid, experts=3)) == stored(open_source(folder))


def test_a_folder_with_a_config_and_a_tokenizer_plans_whole_gguf_files(tmp_path: Path) -> None:
    """The neighbors of a config.json count where the folder is named, not where the file is."""
    for path in DEMO.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    gguf = [recipe for recipe in RECIPES if recipe.exporter == "gguf"]
    alone, folder, whole = (
        [entry.plan for entry in plan_all(source, gguf)]
        for source in (
            describe_source(str(tmp_path / "config.json"), name="m"),
            describe_source(str(tmp_path), name="m"),
            open_source(DEMO, name="m"),
        )
    )
    for less, same, plan in zip(alone, folder, whole, strict=True):
        assert less is not None
        assert same is not None
        assert plan is not None
        assert same.nbytes == plan.nbytes > less.nbytes
        assert "a lower bound" in less.notes[0]
        assert same.notes == plan.notes == less.notes[1:]


def test_what_a_config_cannot_tell_is_said(tmp_path: Path) -> None:
    config = json.loads((DEMO / "config.json").read_text())
    notes = list(config_notes(describe_source(str(DEMO / "config.json")).checkpoint))
    assert "weights in bfloat16, correction biases in float32" in notes[0]
    assert not any("prediction" in note for note in notes)
    drafting = describe_source(config_file(tmp_path, config | {"num_mtp_modules": 3})).checkpoint
    assert "prediction layers (num_mtp_modules: 3) are not counted" in list(config_notes(drafting))[1]
    assert not list(config_notes(open_source(DEMO).checkpoint))


def test_a_quantized_config_is_seen_as_it_would_be_read(tmp_path: Path) -> None:
    """FP8 with block scales is dequantized; what is quantized otherwise is refused, as its checkpoint would be."""
    config = json.loads((DEMO / "config.json").read_text())
    scaled = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert stored(describe_source(config_file(tmp_path, config | {"quantization_config": scaled}))) == stored(
        open_source(DEMO)
    )
    awq = config_file(tmp_path, config | {"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(SixfoldError, match=r"already quantized \(awq"):
        describe_source(awq)


@pytest.mark.parametrize(
    ("experts", "reason"),
    [
        (1, ".* cannot have 1 experts: its router chooses 2 for a token; give at least 2"),
        (7, "chooses 2 for a token, from 2 groups of the same size; give at least 2, and a multiple of 2"),
    ],
)
def test_impossible_numbers_of_experts(experts: int, reason: str, tmp_path: Path) -> None:
    folder = make_family("deepseek_v3", tmp_path / "groups") if experts == 7 else DEMO
    with pytest.raises(UsageError, match=reason):
        describe_source(str(folder / "config.json"), experts=experts)


def test_experts_are_asked_of_a_bare_config_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has weights, so its number of experts is fixed"):
        describe_source(str(DEMO), experts=6)
    dense = make_family("llama", tmp_path / "dense")
    with pytest.raises(UsageError, match="has no routed experts"):
        describe_source(str(dense / "config.json"), experts=6)


def test_nothing_can_be_read_of_a_config() -> None:
    checkpoint = describe_source(str(DEMO / "config.json")).checkpoint
    with pytest.raises(SixfoldError, match="is a configuration without weights"):
        checkpoint.read(TensorSlice("model.norm.weight", 0, 1))


@pytest.mark.parametrize("command", ["export", "calibrate", "status", "prune"])
def test_commands_that_need_weights_refuse_a_config(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--ratio", "0.5"] if command == "prune" else ["--out", str(tmp_path)]
    assert run([command, str(DEMO / "config.json"), *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sixfold: ")
    assert "config.json is a configuration without weights" in said
    assert said.count("\n") == 1


def test_a_config_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(tmp_path, json.loads((DEMO / "config.json").read_text()))
    assert run(["verify", path]) == 1
    assert "is a configuration without weights; give the artifact's folder" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_the_commands_say_what_they_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(DEMO / "config.json"), "bf16", "gguf-q8_0", "--experts", "6"]) == 0
    said = capsys.readouterr().out
    assert "known from config.json alone" in said
    assert "gguf-q8_0: a lower bound" in said
    assert run(["inspect", str(DEMO / "config.json"), "--experts", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"]["experts"] == 6
    assert found["bytes"] == sum(tensor.nbytes for tensor in open_source(PRUNED).checkpoint.tensors.values())
    assert "known from config.json alone" in found["notes"][0]
