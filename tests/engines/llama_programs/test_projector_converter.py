"""Keys and tensors of our projectors (mmproj-*.gguf) are those of llama.cpp's own converter, and verification, which
knows of neither, finds nothing wrong with them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sixfold.model.source import open_source
from tests.engines.llama_programs.test_gguf_converter import DRIVER, compare, converter, newer
from tests.exporters.ggml.gguf_tools import export, keys_of, recipe, tensors_of
from tests.seeing_families import SEEING, make_seeing, rename_tensors
from verification.reading.held_source import HeldSource
from verification.structure.projector.checks import check_projector

pytestmark = pytest.mark.engines

__all__ = ["converter", "newer"]

PUBLISHED: dict[str, Sequence[tuple[str, str]]] = {
    "gemma3": [(r"^vision_tower\.", "vision_tower.vision_model.")],
    "internvl": [(r"^(?!model\.)", "model.")],
    "kimi_k25": [(r"^model\.mm_", "mm_"), (r"^vision_tower\.encoder\.patch_embed", "vision_tower.patch_embed")],
    "lfm2_vl": [(r".*vision_tower\.head.*", ""), (r"^(model\.vision_tower)\.", r"\1.vision_model.")],
    "minimax_m3_vl": [(r"(vision_tower.*)\.block_sparse_moe\.", r"\1.mlp.")],
    # It looks for the embeddings, of which llama.cpp wants a row, after it has left out all of a `language_model`.
    "mistral3": [(r"^language_model\.", "")],
    "pixtral": [(r"^language_model\.", "")],
}
"""Names that the converter knows, where transformers saves others; ours takes both."""

ARCHITECTURES = {"kimi_k25": "KimiK25ForConditionalGeneration", "lighton_ocr": "LightOnOCRForConditionalGeneration"}
TOWERS = {"internvl": "InternVisionModel", "paddleocr_vl": "PaddleOCRVisionModel", "qianfan_ocr": "InternVisionModel"}
"""Classes that config.json names, as published."""

WITHOUT_ASSERTIONS = ("step3p7", "step_robotics")
"""Families whose published sizes the converter asserts; a tiny one goes through what follows."""

NEWER = ("deepseek_v4 that sees", "glm5_next", "minimax_m3_vl", "qwen4_exp")
"""What the converter on PyPI does not know."""

RENAMED = {"llama4": ("attn_post_norm", "ln2")}
"""Since Gemma 4 the converter gives Llama 4's second norm the name of another, which llama.cpp applies elsewhere."""


IN_F16 = ("gemma3", "gemma4 that hears", "hunyuan_vl", "mistral3", "phi4-siglip", "qwen3_vl", "step3p7", "voxtral")
"""Families that are converted in F16 too; the types of their tensors are chosen by what is the same in all."""


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "BF16") for name in SEEING), *((name, "F16") for name in IN_F16)]
)
def test_projectors(name: str, scheme: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    converter = request.getfixturevalue("newer" if name in NEWER else "converter")
    folder = make_seeing(name, tmp_path / "a-model-7B-instruct")
    source = open_source(folder)
    plan, first = export(source, recipe("BF16", projector=scheme), tmp_path / "ours")
    (ours,) = (first.with_name(file.name) for file in plan.files if file.shared)
    assert check_projector(ours, HeldSource(source, torch.device("cpu"))) == []
    published = shutil.copytree(folder, tmp_path / "published" / folder.name)
    family = name.partition(" as ")[0]
    rename_tensors(published, PUBLISHED.get(family, []))
    config = json.loads((published / "config.json").read_text())
    if family in ARCHITECTURES:
        config["architectures"] = [ARCHITECTURES[family]]
    if family in TOWERS:
        config["vision_config"]["architectures"] = [TOWERS[family]]
    (published / "config.json").write_text(json.dumps(config))
    theirs = tmp_path / "theirs.gguf"
    python = [sys.executable, "-O"] if name in WITHOUT_ASSERTIONS else [sys.executable]
    command = [*python, str(DRIVER), str(converter), str(published), scheme.lower(), str(theirs), "", "--mmproj"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {**keys_of(ours), "general.tags": None} == {**keys_of(theirs), "general.tags": None}
    old, new = RENAMED.get(name, ("", ""))
    assert tensors_of(ours) == {key.replace(old, new) if old else key: held for key, held in tensors_of(theirs).items()}


@pytest.mark.parametrize(
    "name", ["audioflamingo3", "dots_ocr", "internvl_chat", "janus", "qwen2_audio", "step_robotics", "voxtral"]
)
def test_decoders_of_models_that_no_other_test_opens(name: str, newer: Path, tmp_path: Path) -> None:
    compare(newer, make_seeing(name, tmp_path / "a-model-7B-instruct"), "BF16", tmp_path, set())
