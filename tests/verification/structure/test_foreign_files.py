"""Files that engines read beside the weights, and that the source does not have, are named; and layers of multi-token
prediction that a folder declares and has not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO
from tests.families import make_family
from tests.verification.damage import edit_config
from verification.finding import Finding, run_checks
from verification.structure import carried, drafts, files, names, quantization_config
from verification.structure.folder_structure import open_subject

CHECKS = [
    files.check_other_weights,
    carried.check_source_files,
    carried.check_added_files,
    quantization_config.check_beside,
    drafts.check_drafts,
    names.check_missing,
]


def found(folder: Path, source: Source | None) -> list[Finding]:
    return run_checks(CHECKS, open_subject(folder, source))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(DEMO, tmp_path / "model")
    return tmp_path / "model"


def _json(name: str, value: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))

    return write


def _weights(name: str, tensor: str) -> Callable[[Path], None]:
    return lambda folder: save_file({tensor: torch.ones(4)}, folder / name)


@pytest.mark.parametrize(
    ("add", "where", "alone"),
    [
        (_json("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}), "hf_quant_config.json", True),
        (_json("adapter_config.json", {"peft_type": "LORA"}), "adapter_config.json", True),
        (_weights("adapter_model.safetensors", "lora.weight"), "adapter_model.safetensors", True),
        (_weights("optimizer.safetensors", "model.norm.weight"), "optimizer.safetensors", True),
        (_weights("consolidated.safetensors", "lm_head.weight"), "consolidated.safetensors", True),
        (_json("special_tokens_map.json", {"eos_token": "the"}), "special_tokens_map.json", True),
        (_json("added_tokens.json", {"the": 5}), "added_tokens.json", False),
        (_json("additional_chat_templates/rag.jinja", "x"), "additional_chat_templates/rag.jinja", False),
        (_json("other.jinja", "x"), "other.jinja", False),
        (_json("chat_template.json", {"chat_template": "x"}), "chat_template.json", False),
        (_json("tokenizer.model", "x"), "tokenizer.model", False),
    ],
)
def test_a_file_that_nobody_made(add: Callable[[Path], None], where: str, alone: bool, copied: Path) -> None:
    add(copied)
    for source in (*([None] if alone else []), open_source(DEMO)):
        assert where in {f.where for f in found(copied, source) if f.severity == "error"}


def test_files_that_say_what_the_source_says(copied: Path) -> None:
    """As libraries write them beside a tokenizer that they save again."""
    config = json.loads((DEMO / "tokenizer_config.json").read_text())
    (copied / "special_tokens_map.json").write_text(json.dumps({"eos_token": config["eos_token"]}))
    (copied / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 0}))
    (copied / "README.md").write_text("a card")
    assert found(copied, open_source(DEMO)) == []
    assert found(copied, None) == []


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLM whose MTP layer lies behind its decoder layers, as published ones do."""
    folder = make_family("glm4_moe", tmp_path_factory.mktemp("drafts") / "model", num_nextn_predict_layers=1)
    config = json.loads((folder / "config.json").read_text())
    last = config["num_hidden_layers"] - 1
    held = load_file(folder / "model.safetensors")
    copied = {n.replace(f"layers.{last}.", f"layers.{last + 1}."): t for n, t in held.items() if f"layers.{last}." in n}
    more = {f"model.layers.{last + 1}.{n}": torch.ones(4) for n in ("eh_proj.weight", "enorm.weight", "hnorm.weight")}
    save_file(
        {**held, **{n: t.clone() for n, t in copied.items()}, **more}, folder / "model.safetensors", {"format": "pt"}
    )
    edit_config(folder, lambda c: c.update(num_nextn_predict_layers=1))
    return folder


def test_an_mtp_layer_that_was_lost(drafting: Path, tmp_path: Path) -> None:
    source = open_source(drafting)
    assert found(drafting, None) == []
    assert found(drafting, source) == []
    layer = f"model.layers.{json.loads((drafting / 'config.json').read_text())['num_hidden_layers']}."
    held = load_file(drafting / "model.safetensors")
    ours = [name for name in held if name.startswith(layer)]
    for lost in ([ours[3]], [f"{layer}eh_proj.weight"], ours):
        folder = tmp_path / str(len(lost)) / lost[0]
        shutil.copytree(drafting, folder)
        save_file({n: t for n, t in held.items() if n not in lost}, folder / "model.safetensors", {"format": "pt"})
        named = {f.where for f in found(folder, None) if f.severity == "error"}
        assert named == ({"config.json: num_nextn_predict_layers"} if len(lost) > 1 else set(lost))
        assert set(lost) <= {f.where for f in found(folder, source) if f.severity == "error"}


def test_a_source_that_declares_mtp_and_has_none(tmp_path: Path) -> None:
    folder = make_family("glm4_moe", tmp_path / "model", num_nextn_predict_layers=1)
    (told,) = found(folder, open_source(folder))
    assert (told.check, told.severity) == ("drafts.declared", "warning")
