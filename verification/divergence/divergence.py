"""How far an artifact's outputs are from its source's: both run layer by layer in float32 over the same held-out text.

Float32, because BF16's own noise (a mean KL of about .001) is larger than what Q8_0 does. The source is run once: its
last hidden states, and a sample of those between layers, are kept in a file that every variant reads.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sixfold.artifact.workspace import digest_of, replacing
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.layer_runner import LayerRunner, batches_of
from sixfold.texts.held_out_text import Windows
from verification.divergence.activations import RoundedInputs, Rule
from verification.reading.weights import Weights

BATCH_TOKENS = 1024
"""Tokens of a batch: logits of a large vocabulary are what takes memory."""

_STRIDE = 16
"""Every so many tokens, hidden states between layers are kept of the source."""


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
    """kl: of every token, float64 [tokens] in the windows' order. inputs: how far rounding moved what each Linear with
    a rule reads, relative, by tensor name. original: the same run against the unpruned model, where that was given."""

    score: Score
    kl: torch.Tensor
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
    and "engine-collapsed" (with one NVFP4 input scale for the experts of a layer). tokens: that were scored. plain: of
    the source rounded plainly to the same formats, where a gate asks for it (verification.divergence.plain_run).
    original: against the unpruned model, where the source is a pruned one and that is at hand."""

    scores: Mapping[str, Score]
    tokens: int
    windows: int
    plain: Score | None = None
    original: SinceOriginal | None = None

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


class SourceNotRunError(SixfoldError):
    """The source itself cannot be run here: that a variant was not measured says nothing against it."""


def reference_of(source: Source, windows: Windows, cache: Path, progress: Progress) -> Reference:
    """From the cache's folder, where an earlier variant left it. Raises SourceNotRunError where transformers cannot run
    the model, or not one layer at a time."""
    path = _cached(source.checkpoint.fingerprint, windows, cache)
    kept = kept_reference(source.checkpoint.fingerprint, windows, cache)
    if kept is not None:
        return kept
    sampled: list[torch.Tensor] = []
    try:
        runner = LayerRunner(source, dtype=torch.float32, device=device())
        final = _run(runner, windows, None, lambda _, hidden: sampled.append(hidden), progress, "running the source")
    except SixfoldError as error:
        raise SourceNotRunError(error.what, error.remedy) from error
    except torch.OutOfMemoryError:  # of this machine, not of the model
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # The family's own code is transformers', and fails on configs that it was not tried with.
        said = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise SourceNotRunError(
            f"transformers' own forward of {source.checkpoint.name} fails ({said})",
            "use a release of transformers that runs the model, and measure again",
        ) from error
    reference = Reference(final, torch.stack(sampled))
    with suppress(OSError):  # a folder that cannot be written only costs the next variant a run of the source
        with replacing(path) as temporary:
            save_file({"final": reference.final, "sampled": reference.sampled}, temporary)
    return reference


def kept_reference(fingerprint: str, windows: Windows, cache: Path) -> Reference | None:
    """What an earlier run of a model with this fingerprint left in the cache's folder."""
    path = _cached(fingerprint, windows, cache)
    if not path.is_file():
        return None
    found = load_file(path)
    return Reference(found["final"], found["sampled"])


def _cached(fingerprint: str, windows: Windows, cache: Path) -> Path:
    digest = digest_of({"source": fingerprint, "windows": windows.digest, "stride": _STRIDE})
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
    """rules: how the inputs of Linears are rounded; {} for the weights alone. original: the run of the unpruned model,
    whose norm, head and vocabulary are the source's."""

    def read_into(name: str, out: torch.Tensor) -> None:
        out.copy_(weights.read(name).reshape(out.shape))

    runner = LayerRunner(source, dtype=torch.float32, device=device(), read_into=read_into)
    rounding = RoundedInputs(runner, rules) if rules else None
    if rounding is not None and hasattr(runner.model, "set_experts_implementation"):
        runner.model.set_experts_implementation("eager")
    against = [reference] if original is None else [reference, original]
    layers: list[list[float]] = [[] for _ in against]

    def observe(layer: int, hidden: torch.Tensor) -> None:
        for errors, other in zip(layers, against, strict=True):
            expected = other.sampled[layer]
            errors.append(float(((hidden - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)).mean()))

    final = _run(runner, windows, rounding, observe, progress, "running the artifact")
    inputs = dict(rounding.errors) if rounding is not None else {}
    (found, kl), *more = [
        _compare(source, runner, rounding, windows, other.final, final, tuple(errors))
        for errors, other in zip(layers, against, strict=True)
    ]
    return Scored(found, kl, inputs, more[0][0] if more else None)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _run(
    runner: LayerRunner,
    windows: Windows,
    rounding: RoundedInputs | None,
    observe: Callable[[int, torch.Tensor], None],
    progress: Progress,
    what: str,
) -> torch.Tensor:
    """Last hidden states, float32 [tokens, hidden] on the CPU. observe: gets a sample of those behind each layer."""
    batches = batches_of(windows.ids, BATCH_TOKENS)
    with torch.inference_mode(), progress(what, len(runner.layers), "layers") as advance:
        with runner.outside():
            hidden = [runner.start(batch).cpu() for batch in batches]
        for layer, _ in runner.each_layer():
            with ExitStack() as stack:
                if rounding is not None:
                    rounding.place(layer)
                    stack.enter_context(rounding)
                for number, batch in enumerate(batches):
                    moved = hidden[number].to(runner.device)
                    hidden[number] = runner.run(layer, batch, moved).cpu()
            observe(layer, torch.cat([h.flatten(0, 1) for h in hidden])[::_STRIDE].clone())
            advance(1)
    return torch.cat([h.flatten(0, 1) for h in hidden]).clone()


def _compare(
    source: Source,
    runner: LayerRunner,
    rounding: RoundedInputs | None,
    windows: Windows,
    expected: torch.Tensor,
    held: torch.Tensor,
    layers: tuple[float, ...],
) -> tuple[Score, torch.Tensor]:
    """Logits of both from their last hidden states, a batch at a time."""
    original = LayerRunner(source, dtype=torch.float32, device=device())
    kl: list[torch.Tensor] = []
    losses: list[tuple[torch.Tensor, torch.Tensor]] = []
    top1 = top5 = 0.0
    place = 0
    with torch.inference_mode(), original.outside(), runner.outside():
        if rounding is not None:
            rounding.place(None)
        for batch in batches_of(windows.ids, BATCH_TOKENS):
            size = batch.numel()
            parts = [
                h[place : place + size].reshape(*batch.shape, *h.shape[1:]).to(runner.device) for h in (expected, held)
            ]
            place += size
            p = original.finish(batch, parts[0]).logits.float().log_softmax(-1)
            with ExitStack() as stack:
                if rounding is not None:
                    stack.enter_context(rounding)
                q = runner.finish(batch, parts[1]).logits.float().log_softmax(-1)
            kl.append((p.exp() * (p - q)).sum(-1).clamp(min=0).flatten().cpu())
            best, others = p.topk(5).indices, q.topk(5).indices
            top1 += float((best[..., 0] == others[..., 0]).sum())
            top5 += float((best.unsqueeze(-1) == others.unsqueeze(-2)).any(-1).sum()) / 5
            following = batch[:, 1:].to(p.device).unsqueeze(-1)
            losses.append(tuple(-x[:, :-1].gather(-1, following).flatten().cpu() for x in (p, q)))
    every = torch.cat(kl).double()
    mean = [torch.cat([pair[side] for pair in losses]).double().mean().exp() for side in (0, 1)]
    found = Score(
        mean_kl=float(every.mean()),
        median_kl=float(every.median()),
        p99_kl=float(every.quantile(0.99)),
        max_kl=float(every.max()),
        top1=top1 / windows.tokens,
        top5=top5 / windows.tokens,
        perplexity=float(mean[1]),
        source_perplexity=float(mean[0]),
        layers=layers,
        domains=_by_domain(every, windows),
    )
    return found, every


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
