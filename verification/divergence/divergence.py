"""How far an artifact's outputs are from its source's: both run layer by layer in float32 over the same held-out text.

Float32, because BF16's own noise (a mean KL of about .001) is larger than what Q8_0 does. The source is run once: its
last hidden states, and a sample of those between layers, are kept in a file that every variant reads.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from sixfold.artifact.workspace import digest_of, replacing
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import transformers_config
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.available_memory import available_memory
from sixfold.texts.held_out_text import Windows
from verification.divergence.activations import Rule
from verification.divergence.comparison import Compared, compared
from verification.divergence.engine_answers import EngineAnswers
from verification.divergence.walk import STRIDE, Lane, Run, walk
from verification.reading.weights import Weights

_ALL = 1 << 30
_SHARE = 0.25
"""Of the free memory, for the hidden states of runs side by side: they are there twice for a moment, and layers and
logits beside them."""


@dataclass(frozen=True)
class Score:
    """Of one run over all tokens, natural logarithms. kl: of the source's next-token distribution from the artifact's.

    top1: share of tokens whose most likely successor is the source's. top5: share of the source's five that are among
    the artifact's five. layers: relative error of the hidden states behind each decoder layer, mean over tokens (a few
    tokens have states hundreds of times as large as all others). domains: mean kl.
    """

    mean_kl: float
    median_kl: float
    p99_kl: float
    max_kl: float
    top1: float
    top5: float
    perplexity: float
    source_perplexity: float
    layers: tuple[float, ...]
    domains: Mapping[str, float]


@dataclass(frozen=True)
class Scored:
    """kl: of every token, float64 [tokens] in the windows' order. losses: of each behind a window's first one, in
    nats. inputs: how far rounding moved what each Linear with
    a rule reads, relative, by tensor name. original: the same run against the unpruned model, where that was given."""

    score: Score
    kl: torch.Tensor
    losses: torch.Tensor
    inputs: Mapping[str, float]
    original: Score | None = None


@dataclass(frozen=True)
class SinceOriginal:
    """name, fingerprint: of the unpruned model. scores: of each run of the artifact, against it."""

    name: str
    fingerprint: str
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Divergence:
    """scores: "weights" (dequantized, inputs as they are), and where the engine rounds inputs, "engine" (so rounded)
    and "engine-collapsed" (with one NVFP4 input scale for the experts of a layer); of an artifact with an FP8 cache,
    which "engine" has, "engine-16-bit-cache" besides. tokens: that were scored. plain: of the source rounded plainly to
    the same formats, where a gate asks for it (verification.divergence.plain_run). original: against the unpruned
    model, where the source is a pruned one and that is at hand. engine: what llama.cpp says itself, of a GGUF file and
    where it is at hand."""

    scores: Mapping[str, Score]
    tokens: int
    windows: int
    plain: Score | None = None
    original: SinceOriginal | None = None
    engine: EngineAnswers | None = None

    @property
    def as_run(self) -> Score:
        """What a user gets: with inputs rounded where the engine rounds them."""
        return self.scores.get("engine", self.scores["weights"])


@dataclass(frozen=True)
class Reference:
    """The source's run. final: float32 [tokens, hidden] of the last layer, batch after batch. sampled: float32
    [layers, tokens / 16, hidden]."""

    final: torch.Tensor
    sampled: torch.Tensor


def reference_of(source: Source, windows: Windows, cache: Path, progress: Progress) -> Reference:
    """From the cache's folder, where an earlier variant left it. Raises SourceNotRunError where transformers cannot run
    the model, or not one layer at a time."""
    path = _cached(source.checkpoint.fingerprint, windows, cache)
    kept = kept_reference(source.checkpoint.fingerprint, windows, cache)
    if kept is not None:
        return kept
    sampled: list[torch.Tensor] = []

    def observe(_run: int, _layer: int, hidden: torch.Tensor) -> None:
        sampled.append(hidden)

    own = Run()
    (lane,) = walk(source, [own], windows, observe, progress, "running the source", own)
    return _kept(Reference(lane.states.cpu(), torch.stack(sampled)), path)


def _kept(reference: Reference, path: Path) -> Reference:
    with suppress(OSError):  # a folder that cannot be written only costs the next variant a run of the source
        with replacing(path) as temporary:
            write_tensors(temporary, {"final": reference.final, "sampled": reference.sampled})
    return reference


def kept_reference(fingerprint: str, windows: Windows, cache: Path) -> Reference | None:
    """What an earlier run of a model with this fingerprint left in the cache's folder."""
    path = _cached(fingerprint, windows, cache)
    if not path.is_file():
        return None
    found = load_file(path)
    return Reference(found["final"], found["sampled"])


def _cached(fingerprint: str, windows: Windows, cache: Path) -> Path:
    digest = digest_of({"source": fingerprint, "windows": windows.digest, "stride": STRIDE})
    return cache / f"reference-{digest[:16]}.safetensors"


def scored(
    source: Source,
    weights: Weights,
    rules: Mapping[str, Rule],
    windows: Windows,
    reference: Reference,
    progress: Progress,
    original: Reference | None = None,
) -> Scored:
    """Of one run. rules: how the inputs of Linears are rounded; {} for the weights alone. Raises SixfoldError where it
    cannot be run."""
    (found,) = scored_together(source, [Run(weights, rules)], windows, reference, progress, original)
    if isinstance(found, SixfoldError):
        raise found
    return found


def scored_with_source(
    source: Source,
    own: Weights,
    runs: Sequence[Run],
    windows: Windows,
    cache: Path,
    progress: Progress,
    original: Reference | None = None,
) -> list[Scored | SixfoldError]:
    """`scored_together`, with the source's own run beside the others where the cache's folder does not have it.

    own: the source's weights. Raises SourceNotRunError as `reference_of` does.
    """
    known = kept_reference(source.checkpoint.fingerprint, windows, cache)
    if known is not None:
        return scored_together(source, runs, windows, known, progress, original)
    hidden = int(transformers_config(source.checkpoint.config).get_text_config().hidden_size)
    first = max(1, _at_most(4 * hidden * windows.tokens) - 1)
    found, reference = _side_by_side(source, runs[:first], windows, None, progress, original, Run(own))
    _kept(reference, _cached(source.checkpoint.fingerprint, windows, cache))
    return found + scored_together(source, runs[first:], windows, reference, progress, original)


def scored_together(
    source: Source,
    runs: Sequence[Run],
    windows: Windows,
    reference: Reference,
    progress: Progress,
    original: Reference | None = None,
) -> list[Scored | SixfoldError]:
    """Of each run, or why there is none. original: the run of the unpruned model, whose norm, head and vocabulary are
    the source's. A run that is the source's own is taken from the reference.

    All go side by side whose hidden states fit into _SHARE of the free memory, neighbors first.
    """
    count = _at_most(reference.final.nbytes)
    return [
        found
        for first in range(0, len(runs), count)
        for found in _side_by_side(source, runs[first : first + count], windows, reference, progress, original)[0]
    ]


def _at_most(nbytes: int) -> int:
    """Runs with hidden states of so many bytes that go side by side."""
    free = available_memory()
    return _ALL if free is None else max(1, int(_SHARE * free) // nbytes)


def _side_by_side(
    source: Source,
    runs: Sequence[Run],
    windows: Windows,
    reference: Reference | None,
    progress: Progress,
    original: Reference | None,
    own: Run | None = None,
) -> tuple[list[Scored | SixfoldError], Reference]:
    """And the reference, which is made by the way of the source's `own` run where there is none."""
    sampled: list[torch.Tensor] = [] if reference is None else list(reference.sampled)
    against = [sampled] if original is None else [sampled, list(original.sampled)]
    layers: list[list[list[float]]] = [[[] for _ in against] for _ in runs]
    moved = [number for number, run in enumerate(runs) if not run.is_source]
    before = 0 if own is None else 1

    def observe(run: int, layer: int, hidden: torch.Tensor) -> None:
        if run < before:
            sampled.append(hidden)
            return
        for errors, other in zip(layers[moved[run - before]], against, strict=True):
            errors.append(_error(hidden, other[layer]))

    lanes: dict[int, Lane] = {}
    if moved or own is not None:
        going = [*([] if own is None else [own]), *(runs[n] for n in moved)]
        walked = walk(source, going, windows, observe, progress, "comparing and running", own)
        lanes = dict(zip(moved, walked[before:], strict=True))
        if own is not None:
            reference = Reference(walked[0].states.cpu(), torch.stack(sampled))
    assert reference is not None
    for number, run in enumerate(runs):
        for errors, other in zip(layers[number], against, strict=True):
            if run.is_source:
                errors += map(_error, sampled, other)
    finals = [reference.final] if original is None else [reference.final, original.final]
    ended = [lanes.get(number) for number in range(len(runs))]
    ended = [None if lane is None or (lane.is_source and lane.failed is None) else lane for lane in ended]
    ends = compared(source, ended, windows, finals, progress)
    found: list[Scored | SixfoldError] = []
    for number, end in enumerate(ends):
        if isinstance(end, SixfoldError):
            found.append(end)
            continue
        lane = lanes.get(number)
        inputs = lane.moved_inputs if lane is not None else {}
        score, *more = [_score(each, windows, tuple(errors)) for each, errors in zip(end, layers[number], strict=True)]
        found.append(Scored(score, end[0].kl, end[0].losses, inputs, more[0] if more else None))
    return found, reference


def _error(hidden: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, mean over tokens."""
    return float(((hidden - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)).mean())


def _score(end: Compared, windows: Windows, layers: tuple[float, ...]) -> Score:
    return Score(
        mean_kl=float(end.kl.mean()),
        median_kl=float(end.kl.median()),
        p99_kl=float(end.kl.quantile(0.99)),
        max_kl=float(end.kl.max()),
        top1=end.top1 / windows.tokens,
        top5=end.top5 / windows.tokens,
        perplexity=end.perplexity,
        source_perplexity=end.source_perplexity,
        layers=layers,
        domains=_by_domain(end.kl, windows),
    )


def _by_domain(kl: torch.Tensor, windows: Windows) -> dict[str, float]:
    """Batches keep the order of the windows, so that tokens do too."""
    found: dict[str, list[torch.Tensor]] = {}
    for part, domain in zip(kl.split([len(w) for w in windows.ids]), windows.domains, strict=True):
        found.setdefault(domain, []).append(part)
    return {domain: float(torch.cat(parts).mean()) for domain, parts in sorted(found.items())}


def worst_layers(layers: Sequence[float]) -> list[tuple[int, float]]:
    """Layers by how much they add to the error of the hidden states, largest first."""
    added = [(n, error - (layers[n - 1] if n else 0.0)) for n, error in enumerate(layers)]
    return sorted(added, key=lambda item: -item[1])
