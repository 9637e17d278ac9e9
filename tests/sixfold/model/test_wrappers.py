"""Checkpoints whose model type comes with its publisher's code, around a decoder that transformers knows."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.errors import SixfoldError
from sixfold.model.bare_config import described
from sixfold.model.meta_model import completed
from sixfold.model.roles import QUANTIZED_ROLES
from sixfold.model.source import Source, open_source
from tests.made_once import made_once
from tests.published_models import PUBLISHED, make_published


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Source]:
    name = str(request.param)
    root = made_once(tmp_path_factory, f"published-{name}", lambda root: make_published(name, root / "model"))
    return name, open_source(root / "model")


def test_the_decoder_is_transformers_own_and_all_else_lies_around_it(published: tuple[str, Source]) -> None:
    name, source = published
    made, architecture = PUBLISHED[name], source.architecture
    assert set(architecture.towers) == {
        *made.bare,
        *(f"{module}.{kind}" for module in made.tensors for kind in ("weight", "bias")),
    }
    assert architecture.layers == 4
    assert architecture.experts == (4 if made.decoder in ("deepseek_v3", "deepseek_v4", "glm_moe_dsa") else 0)
    assert not architecture.unobserved  # its forward was traced, as calibration needs
    quantized = {f"{linear.name}.weight" for linear in architecture.linears if linear.role in QUANTIZED_ROLES}
    assert {found[1] for name in quantized if (found := re.search(r"layers\.(\d)\.", name))} == {"0", "1", "2", "3"}
    assert not quantized & set(architecture.towers)


def test_the_config_says_of_the_decoder_what_it_said_before(published: tuple[str, Source]) -> None:
    name, source = published
    config = completed(source.checkpoint.config)
    assert config["model_type"] == source.checkpoint.config["model_type"]
    text = config["text_config"] if PUBLISHED[name].field else config
    assert text["hidden_size"] == 256
    assert text["num_hidden_layers"] == 4


def test_a_tensor_that_belongs_nowhere_is_refused(published: tuple[str, Source], tmp_path: Path) -> None:
    _, source = published
    for file in source.checkpoint.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    held = load_file(tmp_path / "model.safetensors")
    save_file({**held, "resampler.query": torch.ones(2, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SixfoldError, match=r"holds tensors that its config\.json has no place for: resampler\.query"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ({"model_type": {"a": 1}}, "the model_type of its llm_config is no name"),
        ({"model_type": "internlm2"}, "no causal language model for model_type 'internvl_chat'"),
        ("qwen3", "its llm_config describes no decoder"),
    ],
)
def test_a_decoder_that_is_not_known_is_refused_in_a_sentence(decoder: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(SixfoldError, match=said):
        described({"model_type": "internvl_chat", "llm_config": decoder}, "model", tmp_path, name="model")
