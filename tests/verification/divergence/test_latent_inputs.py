"""Inputs of the two halves of kv_b_proj, changed where llama.cpp rounds them, against a model with other weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sixfold.model.latent_attention import latent_linears
from sixfold.model.source import Source, open_source
from sixfold.texts.held_out_text import Windows
from tests.exporters.exported import DEMO, silent
from tests.families import make_family
from verification.divergence.activations import Rounding
from verification.divergence.divergence import Score, reference_of, scored
from verification.divergence.latent_inputs import LatentRounding
from verification.reading.weights import FolderWeights
from verification.structure.folder_structure import open_subject

pytestmark = pytest.mark.arithmetic


class Scaled(FolderWeights):
    """Rows of every head's query (but for the rotary part) and value, times a factor."""

    def __init__(self, subject: Any, config: dict[str, Any], query: float, value: float) -> None:
        super().__init__(subject)
        self._factors = {
            ".q_b_proj.weight": [query] * config["qk_nope_head_dim"] + [1.0] * config["qk_rope_head_dim"],
            ".kv_b_proj.weight": [1.0] * config["qk_nope_head_dim"] + [value] * config["v_head_dim"],
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        weight = super().read(name, start, stop)
        factors = next((f for end, f in self._factors.items() if name.endswith(end)), None)
        return (
            weight
            if factors is None
            else weight * torch.tensor(factors).repeat(len(weight) // len(factors), 1).view(-1, 1)
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = make_family("deepseek_v3", tmp_path_factory.mktemp("latent") / "model", vocab_size=2048)
    shutil.copy(DEMO / "tokenizer.json", folder / "tokenizer.json")
    return open_source(folder)


def times(factor: float) -> Rounding:
    return lambda x: x * factor


@pytest.mark.parametrize(("query", "value"), [(1.0, 1.0), (0.0, 1.0), (-3.0, 1.0), (1.0, 2.0), (0.5, -1.5)])
def test_factors_of_inputs_are_factors_of_rows(query: float, value: float, model: Source, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(0, 2048, (length,), generator=generator) for length in (48, 48, 20))
    windows = Windows(ids, ("text",) * 3, "three")
    reference = reference_of(model, windows, tmp_path, silent)
    subject = open_subject(model.checkpoint.folder, model)
    rules = {
        f"{name}.weight": LatentRounding(heads, times(query), times(value))
        for name, heads in latent_linears(model).items()
    }
    assert len(rules) == model.architecture.layers

    def run(weights: FolderWeights, given: dict[str, LatentRounding]) -> Score:
        return scored(model, weights, given, windows, reference, silent).score

    found = run(FolderWeights(subject), rules)
    expected = run(Scaled(subject, dict(model.checkpoint.config), query, value), {})
    assert found.mean_kl == pytest.approx(expected.mean_kl, rel=1e-3, abs=1e-7)
    assert found.layers == pytest.approx(expected.layers, rel=1e-3, abs=1e-5)
    assert (expected.mean_kl > 1e-6) == ((query, value) != (1.0, 1.0))
