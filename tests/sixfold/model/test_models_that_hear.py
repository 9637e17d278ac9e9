"""Checkpoints of models that hear and do not see, which transformers has a class of a third kind for."""

from pathlib import Path

import pytest

from sixfold.model.bare_config import described
from sixfold.model.source import open_source
from tests.seeing_families import make_seeing


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral"])
def test_models_that_hear(family: str, tmp_path: Path) -> None:
    source = open_source(make_seeing(family, tmp_path / "ears"))
    architecture, names = source.architecture, set(source.checkpoint.tensors)
    assert set(architecture.towers) == {n for n in names if n.startswith(("audio_tower.", "multi_modal_projector."))}
    assert architecture.layers == 4
    assert not architecture.unobserved
    # By config.json alone, the names that publishers give, and not those with a module twice of transformers' saving.
    bare = described(dict(source.checkpoint.config), family, tmp_path, name=family)
    assert set(bare.tensors) == names
