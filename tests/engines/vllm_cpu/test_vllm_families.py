"""vLLM 0.32's own model classes take our folders of other families whole: experts stacked in one array or named one by
one, towers of models that see, and layers that vLLM fuses.

Each tiny model is loaded as transformers saves it, too: what is asked of our folders, vLLM's loader does with those.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import seeing_families
from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.vllm_cpu.vllm_environment import run_script, torchvision
from tests.every_family import make_family, tiny_config
from tests.verification.artifacts import make_all

pytestmark = pytest.mark.engines

FORMATS = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq")
EXPERTS = (*FORMATS, "mxfp4")

_WIDE = ("projector_input_dim", "projector_output_dim", "vision_output_dim")
FAMILIES: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "deepseek_v3": ({"topk_method": "noaux_tc"}, EXPERTS),
    "gemma3": ({"vision_config": {"vision_use_head": False}}, FORMATS),
    "gemma4": (seeing_families.FAMILIES["gemma4"][1], EXPERTS),
    "glm4_moe": ({"head_dim": 64}, EXPERTS),
    "granitemoe": ({}, EXPERTS),
    "llama4": ({"vision_config": dict.fromkeys(_WIDE, 64)}, EXPERTS),
    "mistral3": ({}, FORMATS),
    "qwen3_moe": ({}, EXPERTS),
    "qwen3_next": ({}, EXPERTS),
    "qwen3_5_moe": ({}, EXPERTS),
    "qwen3_vl_moe": ({"text_config": {"moe_intermediate_size": 384, "norm_topk_prob": True}}, EXPERTS),
}
"""Model type -> fields, most of them such as published configs have and transformers' own leave out; formats that are
planned."""

_TRANSPOSED = ("qwen3_vl_moe",)
"""Published with stacked experts as [in, out], which transformers reads, does not write, and vLLM expects."""

_RENAMED = {"gemma3": [(r"^vision_tower\.", "vision_tower.vision_model.")]}
"""Names that transformers reads as published, and writes otherwise."""

KV_CACHE = (".attn.q_scale", ".attn.k_scale", ".attn.v_scale", "_zero_point")
"""Of a quantized KV cache, which ours are not made for."""

UNREAD: Mapping[str, tuple[str, ...]] = {"nvfp4": (*KV_CACHE, "13_input_global_scale", "2_input_global_scale")}
"""Ends of parameters that a format leaves unread beside KV_CACHE: vLLM makes scales of NVFP4 experts' inputs, and reads
none where weights alone are quantized."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_family_is_taken_and_none_is_left_unread(family: str, python: Path, tmp_path: Path) -> None:
    changes, formats = FAMILIES[family]
    original = make_published(family, tmp_path / "model", changes)
    artifacts = make_all(original, tmp_path, formats)
    assert set(artifacts) == set(formats)
    try:
        imports = torchvision()
    except Unavailable as reason:
        pytest.skip(str(reason))
    folders = {"original": original, **artifacts}
    run_script(python, "vllm_load.py", tmp_path / "found.json", *folders.values(), imports=imports)
    found = json.loads((tmp_path / "found.json").read_text())
    wrong = {name: missed(found[str(folder)], UNREAD.get(name, KV_CACHE)) for name, folder in folders.items()}
    assert wrong == {name: {} for name in folders}
    assert found[str(artifacts["bf16"])]["parameters"] == found[str(original)]["parameters"]


def make_published(family: str, folder: Path, changes: Mapping[str, Any]) -> Path:
    """A model as it is published, of `changes` to its config, those of nested configs among them."""
    inner = {name: getattr(tiny_config(family), name) for name, value in changes.items() if isinstance(value, dict)}
    nested = {name: {} if config is None else config.to_dict() for name, config in inner.items()}
    make_family(family, folder, **{k: {**nested[k], **v} if k in nested else v for k, v in changes.items()})
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if name in nested else value
    (folder / "config.json").write_text(json.dumps(config))
    seeing_families.rename_tensors(folder, _RENAMED.get(family, ()))
    if family in _TRANSPOSED:
        file = folder / "model.safetensors"
        experts = {name: t.mT.contiguous() if ".mlp.experts." in name else t for name, t in load_file(file).items()}
        save_file(experts, file, {"format": "pt"})
    return folder


def missed(found: Mapping[str, Any], unread: tuple[str, ...]) -> dict[str, Any]:
    """What is not as it should be of a folder that vllm_load.py loaded. unread: ends of parameters that may be."""
    if "error" in found:
        return {"error": found["error"]}
    parameters = found["parameters"].items()
    return {
        reason: names
        for reason, names in {
            "refused": found["refused"],
            "swapped": found["swapped"],
            "partly taken": [name for name, (size, written) in found["tensors"].items() if size != written],
            "unread": [n for n, (size, written, _) in parameters if written != size and not n.endswith(unread)],
            "written twice": [name for name, (_, _, twice) in parameters if twice],
        }.items()
        if names
    }
