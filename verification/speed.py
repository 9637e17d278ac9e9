"""How long comparing weights takes, measured on artifacts of a small model by what `verify` runs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sixfold.model.source import Source
from sixfold.runner.machine_speed import Verifying, timed
from verification.divergence.distributions import agreement, distributions, divergences
from verification.divergence.plain_run import PlainWeights
from verification.divergence.walk import device
from verification.reading.held_source import HeldSource
from verification.reading.stacked_weights import StackedWeights
from verification.verify import opened

_LOGITS, _LOGITS_ON_GPU = (64, 1 << 15), (512, 1 << 17)


def held_for(source: Source) -> HeldSource:
    """Of its first decoder layer, where weights are compared."""
    held = HeldSource(source, device())
    held.hold(0)
    return held


def verifying_speed(path: Path, held: HeldSource, names: Mapping[str, Sequence[str]]) -> dict[str, Verifying]:
    """path: of an artifact. held: of its source, with the layer that `names` are of. names: source's tensors, by the
    type that the artifact has them in."""
    return {kind: _of_type(path, held, of) for kind, of in names.items()}


def _of_type(path: Path, held: HeldSource, names: Sequence[str]) -> Verifying:
    tensors = held.source.checkpoint.tensors
    count = sum(torch.Size(tensors[name].shape).numel() for name in names)
    where = held.device

    def compare() -> None:
        artifact = opened(path, held)
        assert artifact.comparison is not None
        begun[:] = [time.perf_counter()]
        artifact.comparison.compare_tensors(names, lambda name, values: None)
        _wait()
        took.append(time.perf_counter() - begun[0])

    begun: list[float] = []
    took: list[float] = []
    for _ in range(3):
        compare()
    artifact = opened(path, held)
    assert artifact.weights is not None
    decoding, plainly = StackedWeights(artifact.weights, where), PlainWeights(artifact.weights, held)
    out = [torch.empty(tensors[name].shape, device=where) for name in names]

    def read(weights: StackedWeights | PlainWeights) -> None:
        for name, to in zip(names, out, strict=True):
            to.copy_(weights.read_on(where, name).reshape(to.shape))

    def decode() -> None:
        decoding.prepare(set(names))
        read(decoding)

    def plain() -> None:
        plainly.prepare(0, set(names))
        read(plainly)

    return Verifying(min(took[1:]) / count, timed(decode) / count, timed(plain) / count)


def holding_speed(source: Source) -> float:
    """Seconds of a byte."""
    nbytes = sum(source.checkpoint.as_stored.tensors[name].nbytes for name in HeldSource(source, device()).layers[0])
    return timed(lambda: held_for(source)) / nbytes


def answers_speed() -> float:
    """Seconds of a logit."""
    rows, vocabulary = _LOGITS_ON_GPU if device().type == "cuda" else _LOGITS
    logits = torch.randn(1, rows, vocabulary, device=device())
    ids = torch.zeros((1, rows), dtype=torch.int64)
    p = distributions(logits.clone(), ids)

    def answer() -> None:
        q = distributions(logits.clone(), ids)
        agreement(p, q)
        divergences(p, q)

    return timed(answer) / logits.numel()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
