"""What the libraries say of an architecture is what the tables state of those that have one."""

import json
from pathlib import Path

import pytest

from sixfold.model.bare_config import described
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.gguf.architectures import GGUF_ARCHITECTURES
from tests.every_family import tiny_config
from verification.reading.gguf.by_library import is_library_name, library_places, same_named
from verification.reading.gguf.place import place_of
from verification.structure.gguf.expected import ARCHITECTURE_OF, OTHERS


@pytest.mark.parametrize(
    "family",
    (
        "cohere cohere2 ernie4_5 ernie4_5_moe exaone4 gemma2 gemma3_text glm granite llama mistral mixtral nemotron"
        " olmo olmo2 olmoe phi qwen2 qwen2_moe qwen3 qwen3_moe starcoder2"
    ).split(),
)
def test_the_libraries_say_what_the_tables_do(family: str, tmp_path: Path) -> None:
    """Names, order of rows, and norms plus one: each is stated twice, independently."""
    config = json.loads(tiny_config(family).to_json_string())
    checkpoint = with_single_experts(described(config, family, tmp_path, name=family))
    architecture = derive_architecture(checkpoint)
    arch, tied = GGUF_ARCHITECTURES[family], architecture.tied_embeddings
    one_plus = {norm.weight for norm in architecture.norms if norm.one_plus}
    names = {name: name for name in checkpoint.tensors if not (tied and name == "lm_head.weight")}
    found = library_places(arch, family, architecture.layers, names, one_plus)
    assert found == {name: place_of(arch, name) for name in found}
    held = {name.format(expert) for place in found.values() for name in (place.name,) for expert in range(99)}
    assert set(names) <= held
    assert all(is_library_name(arch, name) for name in found)
    assert not is_library_name(arch, "blk.0.attn_extra.weight")


def test_a_name_that_both_libraries_have() -> None:
    assert same_named()["seed_oss"] == "seed_oss"
    assert same_named()["cohere2"] == "cohere2"
    assert "phi" not in same_named()  # which is llama.cpp's phi2
    assert {"bert", "bitnet", "t5"}.isdisjoint(same_named())


def test_the_exporters_list_and_the_verifiers_agree() -> None:
    """Of model types that are called otherwise in llama.cpp, each states the name by itself."""
    stated = {**same_named(), **OTHERS, **ARCHITECTURE_OF}
    assert {kind: stated.get(kind) for kind in GGUF_ARCHITECTURES} == dict(GGUF_ARCHITECTURES)
