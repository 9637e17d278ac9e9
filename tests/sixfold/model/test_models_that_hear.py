"""Checkpoints of models that hear and do not see, which transformers has other classes for."""

import json
from pathlib import Path

import pytest

from sixfold.errors import SixfoldError
from sixfold.model.bare_config import described
from sixfold.model.source import open_source
from tests.every_family import tiny_config
from tests.seeing_families import make_seeing


@pytest.mark.parametrize("family", ["audioflamingo3", "qwen2_audio", "voxtral"])
def test_models_that_hear(family: str, tmp_path: Path) -> None:
    source = open_source(make_seeing(family, tmp_path / "ears"))
    architecture, names = source.architecture, set(source.checkpoint.tensors)
    assert set(architecture.towers) == {n for n in names if n.startswith(("audio_tower.", "multi_modal_projector."))}
    assert architecture.layers == 4
    assert not architecture.unobserved
    # By config.json alone, the names that publishers give, and not those with a module twice of transformers' saving.
    bare = described(dict(source.checkpoint.config), family, tmp_path, name=family)
    assert set(bare.tensors) == names


@pytest.mark.parametrize("family", ["qwen2_5_omni", "t5"])
def test_decoders_that_are_not_transformers_own_causal_models_are_refused(family: str, tmp_path: Path) -> None:
    config = json.loads(tiny_config(family).to_json_string())
    with pytest.raises(SixfoldError, match=f"no causal language model for model_type '{family}'"):
        described(config, family, tmp_path, name=family)
