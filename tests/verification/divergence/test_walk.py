"""Runs side by side against each run by itself, and what is in memory meanwhile."""

from collections.abc import Iterable

import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.runner.layer_runner import LayerRunner
from sixfold.runner.layer_weights import HostBuffers
from sixfold.texts.held_out_text import Windows, held_out
from tests.verification.artifacts import Artifacts
from verification.divergence import comparison, divergence
from verification.divergence.divergence import Reference, Scored, reference_of, scored, scored_together
from verification.divergence.walk import Run, walk
from verification.measure import runs_of
from verification.reading.weights import CodedWeights, Wrapped

pytestmark = pytest.mark.arithmetic


class Unreadable(Wrapped):
    """Weights of which one cannot be read."""

    def __init__(self, weights: CodedWeights, name: str) -> None:
        super().__init__(weights)
        self._name = name

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        if name == self._name:
            raise SixfoldError("the file ends early", "copy it again")
        return super().read(name, start, stop)


def refused(x: torch.Tensor) -> torch.Tensor:
    """As PyTorch refuses a product."""
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nin a second line")


def runs_of_variants(artifacts: Artifacts, demo: Source, *variants: str) -> list[Run]:
    """Weights alone and as run, of each."""
    found = []
    for variant in variants:
        weights, runs = runs_of(artifacts[variant], demo)
        found += [Run(weights, rules) for rules in runs.values()]
    return found


@pytest.fixture(scope="module")
def windows(demo: Source) -> Windows:
    """Two, of different lengths."""
    found = held_out(load_tokenizer(demo.checkpoint.folder))
    return Windows((found.ids[0], found.ids[-1]), (found.domains[0], found.domains[-1]), "two")


@pytest.fixture(scope="module")
def reference(demo: Source, windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference_of(demo, windows, tmp_path_factory.mktemp("cache"), unseen)


@pytest.fixture(scope="module")
def alone(artifacts: Artifacts, demo: Source, windows: Windows, reference: Reference) -> list[tuple[Run, Scored]]:
    """Weights alone and as run, each by itself."""
    runs = runs_of_variants(artifacts, demo, "nvfp4-gb10", "gguf-q4_k_m")
    return [
        (run, scored(demo, run.weights, run.rules, windows, reference, unseen))
        for run in runs
        if run.weights is not None
    ]


@pytest.mark.parametrize(
    ("heads", "memory"), [(0, 1 << 40), (1 << 30, 1 << 40), (1 << 30, 0)], ids=["a head at a time", "all", "one run"]
)
def test_side_by_side_as_each_by_itself(
    alone: list[tuple[Run, Scored]],
    demo: Source,
    windows: Windows,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    heads: int,
    memory: int,
) -> None:
    """Whatever memory holds at once."""
    monkeypatch.setattr(comparison, "_HEADS", heads)
    monkeypatch.setattr(divergence, "available_memory", lambda: memory)
    runs = [run for run, _ in alone]
    broken = Run(Unreadable(runs[0].weights, "model.layers.1.self_attn.q_proj.weight"))  # type: ignore[arg-type]
    raising = [
        Run(runs[0].weights, {name: refused}) for name in ("model.layers.1.self_attn.q_proj.weight", "lm_head.weight")
    ]
    going = [*runs, *raising, broken, Run()]
    *together, in_a_layer, in_the_head, failed, source = scored_together(demo, going, windows, reference, unseen)
    assert isinstance(failed, SixfoldError)
    assert failed.what == "the file ends early"
    for error in (in_a_layer, in_the_head):
        assert isinstance(error, SixfoldError)
        assert "fails (RuntimeError: mat1 and mat2 shapes cannot be multiplied), and" in error.what
    assert isinstance(source, Scored)
    assert source.score.mean_kl == 0
    assert source.score.top1 == source.score.top5 == 1
    assert len(together) == 5
    for found, (_, expected) in zip(together, alone, strict=True):
        assert isinstance(found, Scored)
        assert torch.equal(found.kl, expected.kl)  # the same operations in the same order
        assert found.inputs == expected.inputs
        assert found.score == expected.score


def test_a_windows_logits_in_parts(
    alone: list[tuple[Run, Scored]],
    demo: Source,
    windows: Windows,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As large vocabularies need: 100 tokens of a window at a time."""
    monkeypatch.setattr(comparison, "_LOGITS", 100 * 2048)
    (found,) = scored_together(demo, [alone[-1][0]], windows, reference, unseen)
    assert isinstance(found, Scored)
    torch.testing.assert_close(found.kl, alone[-1][1].kl, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.losses, alone[-1][1].losses, rtol=1e-4, atol=1e-5)
    assert found.score.source_perplexity == pytest.approx(alone[-1][1].score.source_perplexity, rel=1e-5)


def test_two_layers_are_in_memory_however_many_runs_there_are(
    artifacts: Artifacts, demo: Source, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, peak = 0, 0
    read, give_back = LayerRunner.read_layer, HostBuffers.give_back

    def counted(self: LayerRunner, number: int) -> dict[str, torch.Tensor]:
        nonlocal held, peak
        held += 1
        peak = max(peak, held)
        return read(self, number)

    def returned(self: HostBuffers, tensors: Iterable[torch.Tensor]) -> None:
        nonlocal held
        held -= 1
        give_back(self, tensors)

    monkeypatch.setattr(LayerRunner, "read_layer", counted)
    monkeypatch.setattr(HostBuffers, "give_back", returned)
    runs = runs_of_variants(artifacts, demo, "fp8", "nvfp4", "gguf-q8_0", "gguf-q3_k_m")
    walk(demo, runs, windows, lambda *_: None, unseen, "")
    assert (held, peak) == (0, 2)
