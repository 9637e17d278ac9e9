"""A model that does not fit is refused before it is loaded."""

from pathlib import Path

import pytest
import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.runner import whole_model

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


def test_too_little_memory_names_both_sizes_and_what_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(DEMO)
    weights = sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())
    monkeypatch.setattr(whole_model, "available_memory", lambda: weights)
    with pytest.raises(SixfoldError) as refusal:
        whole_model.load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert str(refusal.value) == (
        "minimax-m2-4.6m as a whole needs 18.4 MB of memory, of which this machine has 9.19 MB available;"
        " use a larger machine, or a recipe with a native exporter, which never holds the whole model."
    )
    monkeypatch.setattr(whole_model, "available_memory", lambda: 2 * weights)
    assert whole_model.load_model(source, dtype=torch.bfloat16, device=torch.device("cpu")) is not None
