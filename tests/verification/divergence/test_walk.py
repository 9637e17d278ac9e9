"""Runs side by side against each run by itself, and what is in memory meanwhile."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.runner.layer_runner import LayerRunner
from sixfold.runner.layer_weights import HostBuffers
from sixfold.texts.held_out_text import Windows
from tests.verification.artifacts import Artifacts
from tests.verification.divergence.test_divergence import windows
from verification.divergence import comparison, divergence
from verification.divergence.divergence import Scored, reference_of, scored, scored_together
from verification.divergence.walk import Run, walk
from verification.measure import runs_of
from verification.reading.weights import CodedWeights

__all__ = ["windows"]  # a fixture

pytestmark = pytest.mark.arithmetic


class Unreadable:
    """Weights of which one cannot be read."""

    def __init__(self, weights: CodedWeights, name: str) -> None:
        self._weights = weights
        self._name = name

    def names(self) -> Iterable[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def encoding(self, name: str) -> str:
        return self._weights.encoding(name)

    def dtype(self, name: str) -> str:
        return self._weights.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        if name == self._name:
            raise SixfoldError("the file ends early", "copy it again")
        return self._weights.read(name, start, stop)


def runs_of_variants(artifacts: Artifacts, demo: Source, *variants: str) -> list[Run]:
    """Weights alone and as run, of each."""
    found = []
    for variant in variants:
        weights, runs = runs_of(artifacts[variant], demo)
        found += [Run(weights, rules) for rules in runs.values()]
    return found


@pytest.mark.parametrize(
    ("heads", "memory"),
    [(0, 1 << 40), (1 << 30, 1 << 40), (1 << 30, 12 << 20)],
    ids=["a head at a time", "all heads at once", "memory for few"],
)
def test_side_by_side_as_each_by_itself(
    artifacts: Artifacts,
    demo: Source,
    windows: Windows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heads: int,
    memory: int,
) -> None:
    """Whether memory holds one head or all, and the hidden states of all runs or of one or two."""
    monkeypatch.setattr(comparison, "_HEADS", heads)
    monkeypatch.setattr(divergence, "available_memory", lambda: memory)
    reference = reference_of(demo, windows, tmp_path, unseen)
    runs = runs_of_variants(artifacts, demo, "nvfp4-gb10", "gguf-q4_k_m")
    broken = Run(Unreadable(runs[0].weights, "model.layers.1.self_attn.q_proj.weight"))  # type: ignore[arg-type]
    *together, failed, source = scored_together(demo, [*runs, broken, Run()], windows, reference, unseen)
    assert isinstance(failed, SixfoldError)
    assert failed.what == "the file ends early"
    assert isinstance(source, Scored)
    assert source.score.mean_kl == 0
    assert source.score.top1 == source.score.top5 == 1
    assert len(together) == 5
    for run, found in zip(runs, together, strict=True):
        assert isinstance(found, Scored)
        assert run.weights is not None
        alone = scored(demo, run.weights, run.rules, windows, reference, unseen)
        assert torch.equal(found.kl, alone.kl)  # the same operations in the same order
        assert found.inputs == alone.inputs
        assert found.score == alone.score


def test_two_layers_are_in_memory_however_many_runs_there_are(
    artifacts: Artifacts, demo: Source, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = LayerRunner(demo, dtype=torch.float32, device=torch.device("cpu"))
    layer = max(sum(s.nbytes for s in runner.sources_of(n)) for n in range(len(runner.layers)))
    out, peak = 0, 0
    take, give_back = HostBuffers.take, HostBuffers.give_back

    def counted(self: HostBuffers, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nonlocal out, peak
        found = take(self, shape, dtype)
        out += found.nbytes
        peak = max(peak, out)
        return found

    def returned(self: HostBuffers, tensors: Iterable[torch.Tensor]) -> None:
        nonlocal out
        held = list(tensors)
        out -= sum(tensor.nbytes for tensor in held)
        give_back(self, held)

    def observe(run: int, number: int, hidden: torch.Tensor) -> None:
        nonlocal out, peak
        if (run, number) == (0, 0):  # embeddings and head, which are not given back, are gone
            out, peak = layer, layer

    monkeypatch.setattr(HostBuffers, "take", counted)
    monkeypatch.setattr(HostBuffers, "give_back", returned)
    runs = runs_of_variants(artifacts, demo, "fp8", "nvfp4", "gguf-q8_0", "gguf-q3_k_m")
    walk(demo, runs, windows, observe, unseen, "")
    assert layer < peak <= 2 * layer
