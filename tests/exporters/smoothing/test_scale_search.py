"""The search of a layer's scales: experts side by side, as on a GPU, choose what they choose one by one."""

from pathlib import Path

import pytest
import torch

from benchmarks.speed.awq_layer import search_of
from exporters.smoothing import scale_search
from exporters.smoothing.scale_search import find_scales
from tests.exporters.exported import DEMO

pytestmark = pytest.mark.arithmetic


def test_side_by_side_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    search, _, groups, _ = search_of(Path(DEMO, "config.json"), None, "cpu", rows=32, tokens=64)
    alone = find_scales(search, groups, map)
    batches: list[int] = []

    def together(search: scale_search.Search, parts: list[scale_search.Part]) -> list[tuple[scale_search.Part, ...]]:
        found = scale_search.side_by_side(search, parts)
        batches.extend(map(len, found))
        return found

    monkeypatch.setattr(scale_search, "batches", together)
    for one, other in zip(alone, find_scales(search, groups, map), strict=True):
        assert one is not None
        assert other is not None
        # The best of the grid is the same but where two are as good: the loss is what counts.
        assert torch.allclose(one.loss, other.loss, rtol=1e-5)
    assert max(batches) == 8
