"""How long comparing weights takes, measured on artifacts of a small model by what `verify` runs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.products import products_of_a_token, traffic
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.runner.machine_speed import Verifying, timed
from sixfold.texts.held_out_text import held_out
from verification.divergence.distributions import agreement, distributions, divergences
from verification.divergence.plain_run import PlainWeights
from verification.divergence.walk import Run, device, walk
from verification.measure import runs_of
from verification.reading.held_source import HeldSource
from verification.reading.stacked_weights import StackedWeights
from verification.result import manifest_of
from verification.verify import opened
from verification.weights.compensated_codes import targets_of

_TOKENS = (128, 512)
"""Of each held-out file, at most, of the runs whose difference is measured."""
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
        begun = time.perf_counter()
        artifact.comparison.compare_tensors(names, lambda name, values: None)
        _wait()
        took.append(time.perf_counter() - begun)

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


def running_speed(path: Path, held: HeldSource, speed: float) -> float:
    """Seconds of a number of a token's `traffic` that a run of an artifact takes beside its matrix products. speed: of
    these, float operations a second."""
    architecture = held.source.architecture
    few, many = (_run(path, held, tokens, as_engine=False) for tokens in _TOKENS)
    token = (many.seconds - few.seconds) / (many.tokens - few.tokens) - products_of_a_token(architecture) / speed
    return max(0.0, token) / traffic(architecture)


def input_rounding_speed(path: Path, held: HeldSource) -> float:
    """Seconds of a number of a token's `traffic` that rounding inputs as an engine does takes."""
    alone, rounded = (_run(path, held, _TOKENS[1], as_engine=as_engine) for as_engine in (False, True))
    return max(0.0, rounded.seconds - alone.seconds) / rounded.tokens / traffic(held.source.architecture)


@dataclass(frozen=True)
class _Ran:
    tokens: int
    seconds: float


def _run(path: Path, held: HeldSource, tokens: int, *, as_engine: bool) -> _Ran:
    """tokens: of each held-out file, at most."""
    source = held.source
    windows = held_out(load_tokenizer(source.checkpoint.folder), tokens=tokens)
    weights, rules = runs_of(path, source)
    run = Run(weights, rules.get("engine", {}) if as_engine else {})
    return _Ran(windows.tokens, timed(lambda: walk(source, [run], windows, _unobserved, unseen, "")))


def damping_speed(path: Path, held: HeldSource, linears: Sequence[str]) -> float:
    """Seconds of a pair of an input's channels, until what a compensated artifact was made by is read and damped.

    linears: by name, of inputs of their own."""
    known = targets_of(path, manifest_of(path) or {}, held).known
    if known is None:
        return 0.0

    def damp() -> None:
        held.hold(None)
        held.hold(0)
        _wait()
        begun = time.perf_counter()
        pairs[:] = [moments.numel() for name in linears if (moments := known(name)) is not None]
        _wait()
        took.append(time.perf_counter() - begun)

    took: list[float] = []
    pairs: list[int] = []
    for _ in range(3):
        damp()
    return min(took[1:]) / max(1, sum(pairs))


def _unobserved(run: int, layer: int, hidden: torch.Tensor) -> None:
    pass


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
