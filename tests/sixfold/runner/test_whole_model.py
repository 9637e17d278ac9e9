"""A model that does not fit is refused before it is loaded, and one that fits has the checkpoint's weights."""

from pathlib import Path

import pytest
import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.runner import whole_model
from tests import every_family

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


def test_weights_have_the_names_that_transformers_gives_them(tmp_path: Path) -> None:
    """Of Step-3.7, whose checkpoints call all but the head otherwise."""
    from transformers import AutoModelForImageTextToText

    folder = every_family.make_family("step3p7", tmp_path)
    found = whole_model.load_model(open_source(folder), dtype=torch.float32, device=torch.device("cpu")).state_dict()
    expected = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
