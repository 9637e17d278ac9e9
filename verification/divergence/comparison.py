"""From last hidden states of several runs to their distributions over next tokens, and how far these are apart."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.freed_memory import kept_heap
from sixfold.runner.layer_runner import LayerRunner, batches_of
from sixfold.texts.held_out_text import Windows
from verification.divergence.distributions import Distributions, agreement, distributions, divergences
from verification.divergence.walk import Group, Lane, device
from verification.running import giving_up

_LOGITS = 1 << 25
_LOGITS_ON_GPU = 1 << 28
"""Numbers of a batch's logits: of a large vocabulary, they are what takes memory. On a GPU more, for fewer and larger
products with each head."""

_MOST_TOKENS = 1024

_HEADS = 1 << 31
"""Bytes of embeddings and heads that are in memory at once, unless a single artifact's are larger."""


@dataclass(frozen=True)
class Compared:
    """kl: of every token, float64 [tokens]. losses: of every token behind a window's first one, float32, in nats. top1,
    top5: tokens, and shares of tokens, that agree."""

    kl: torch.Tensor
    losses: torch.Tensor
    top1: float
    top5: float
    perplexity: float
    source_perplexity: float


@dataclass
class _Sum:
    kl: list[torch.Tensor] = field(default_factory=list)
    losses: tuple[list[torch.Tensor], list[torch.Tensor]] = field(default_factory=lambda: ([], []))
    top1: float = 0.0
    top5: float = 0.0

    def add(self, p: Distributions, q: Distributions) -> None:
        first, five = agreement(p, q)
        self.top1, self.top5 = self.top1 + first, self.top5 + five
        self.kl.append(divergences(p, q))
        for losses, of in zip(self.losses, (p, q), strict=True):
            losses.append(of.loss.cpu())

    def result(self) -> Compared:
        source, own = (float(torch.cat(losses).double().mean().exp()) for losses in self.losses)
        return Compared(torch.cat(self.kl).double(), torch.cat(self.losses[1]), self.top1, self.top5, own, source)


def compared(
    source: Source,
    lanes: Sequence[Lane | None],
    windows: Windows,
    against: Sequence[torch.Tensor],
    progress: Progress,
) -> list[list[Compared] | SixfoldError]:
    """Of each run, its distance from each of `against`: last hidden states under the source's norm and head, float32
    [tokens, hidden], the source's own first. A run is a lane at its end, or None for the source's own."""
    own = LayerRunner(source, dtype=torch.float32, device=device())
    against = [final.to(own.device) for final in against]  # once, and not again for every part
    sums = [[_Sum() for _ in against] for _ in lanes]
    batches = _batches(windows, own)
    parts = list(_parts(lanes))
    with (
        torch.inference_mode(),
        kept_heap(),
        own.outside(),
        progress("comparing distributions", windows.tokens * len(parts), "tokens") as advance,
    ):
        for part in parts:
            groups = dict.fromkeys(lane.group for _, lane in part if lane is not None)
            with ExitStack() as stack:
                for group in (group for group in groups if not group.has_sources_head):
                    with giving_up(group.fail):
                        stack.enter_context(group.runner.outside())
                place = 0
                for batch, after in batches:
                    some = slice(place, place + batch.numel())
                    references = [distributions(_logits(own, batch, final[some]), batch, after) for final in against]
                    for number, lane in part:
                        if lane is not None and lane.failed is not None:
                            continue
                        with nullcontext() if lane is None else giving_up(lane.fail):
                            q = references[0] if lane is None else _of_lane(lane, own, batch, after, lane.states[some])
                            for total, p in zip(sums[number], references, strict=True):
                                total.add(p, q)
                    place += batch.numel()
                    advance(batch.numel())
    return [
        lane.failed if lane is not None and lane.failed is not None else [total.result() for total in sums[number]]
        for number, lane in enumerate(lanes)
    ]


def _batches(windows: Windows, runner: LayerRunner) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens whose logits are in memory at once, int64 [samples, length], and those that follow them: a window in
    several parts where its own logits are too many, as norm and head see one token at a time."""
    vocabulary = runner.model.get_output_embeddings().weight.shape[0]
    at_once = _LOGITS_ON_GPU if runner.device.type == "cuda" else _LOGITS
    most = min(_MOST_TOKENS, max(1, at_once // vocabulary))
    found = []
    for batch in batches_of(windows.ids, most):
        length = batch.shape[1]
        step = length if batch.shape[0] > 1 else most
        found += [(batch[:, at : at + step], batch[:, at + 1 : at + step + 1]) for at in range(0, length, step)]
    return found


def _parts(lanes: Sequence[Lane | None]) -> Iterator[list[tuple[int, Lane | None]]]:
    """Runs that went to their end, with their numbers, so many together that their heads are in memory at once."""
    part: list[tuple[int, Lane | None]] = []
    groups: set[Group] = set()
    for number, lane in sorted(enumerate(lanes), key=lambda item: id(item[1].group) if item[1] is not None else 0):
        if lane is None:
            part.append((number, lane))
        elif lane.failed is None:
            if lane.group not in groups and sum(map(_head_bytes, groups | {lane.group})) > _HEADS and groups:
                yield part
                part, groups = [], set()
            part.append((number, lane))
            groups.add(lane.group)
    if part:
        yield part


def _head_bytes(group: Group) -> int:
    if group.has_sources_head:
        return 0
    return sum(source.nbytes for source in group.runner.sources_of(None))


def _of_lane(
    lane: Lane, own: LayerRunner, ids: torch.Tensor, after: torch.Tensor, states: torch.Tensor
) -> Distributions:
    if lane.group.has_sources_head:
        return distributions(_logits(own, ids, states), ids, after)
    with lane.rounded(None):
        logits = _logits(lane.group.runner, ids, states)
    return distributions(logits, ids, after)


def _logits(runner: LayerRunner, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """float32 [samples, length, vocabulary]. states: float32 [tokens, ...]."""
    hidden = states.reshape(*ids.shape, *states.shape[1:]).to(runner.device)
    logits: torch.Tensor = runner.finish(ids, hidden).logits.float()
    return logits
