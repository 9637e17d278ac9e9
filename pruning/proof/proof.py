"""Whether a pruned checkpoint equals the original with the pruned experts masked, and what pruning cost.

Both models run side by side in float32, one decoder layer at a time. Each layer of the original, its router masked,
gets the same input as that layer of the pruned model and must give the same output: if every layer does, so does the
entire model. The original also runs unmasked, from its own hidden states, for the divergence.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat

import torch

from pruning.anatomy import Anatomy
from pruning.proof.masking import masked
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.layer_runner import LayerRunner, batches_of

BATCH_TOKENS = 2048
TOLERANCE = 1e-3
"""Largest difference that rounding explains, relative to the token's hidden state: sums of as many terms in another
order differ by some 1e-6, and a wrong expert, gate or bias by more than 1e-2."""
TIES = 1e-3
"""Share of tokens that may differ by more: where two experts score the same down to rounding, either may be chosen."""


@dataclass(frozen=True)
class LayerProof:
    """largest: difference between masked original and pruned, relative to the norm of the token's hidden state.
    differing: tokens that differ by more than TOLERANCE."""

    layer: int
    largest: float
    differing: int


@dataclass(frozen=True)
class LayerError:
    """Error of the hidden states behind a layer, relative to the original's, mean over tokens: of the model that was
    only pruned, and of the healed one."""

    layer: int
    plain: float
    healed: float


@dataclass(frozen=True)
class Cost:
    """On one domain's texts. Means over predicted tokens, in nats; KL of the pruned from the original."""

    tokens: int
    nll_before: float
    nll_after: float
    kl: float
    top1: float


@dataclass(frozen=True)
class Healing:
    """What refitting brought on the held-out texts. costs: of the healed model, by domain."""

    layers: tuple[LayerError, ...]
    costs: Mapping[str, Cost]


@dataclass(frozen=True)
class Proof:
    """tokens: that ran. sound: whether every layer is the masked original's, but for ties. healing: None where nothing
    was refitted; layers and costs are of the pruned model without that."""

    tokens: int
    layers: tuple[LayerProof, ...]
    costs: Mapping[str, Cost]
    healing: Healing | None = None

    @property
    def sound(self) -> bool:
        return all(layer.differing <= TIES * self.tokens for layer in self.layers)


def prove(
    original: Source,
    pruned: Source,
    anatomy: Anatomy,
    kept: Mapping[int, Sequence[int]],
    texts: Mapping[str, Sequence[torch.Tensor]],
    *,
    healed: Source | None = None,
    device: torch.device,
    progress: Progress,
) -> Proof:
    """texts: windows of token ids by domain, int64 [length] each. healed: the pruned model with refitted experts, whose
    cost is measured beside. Reads every checkpoint once."""
    # None reads ahead: with one layer of each in memory, there are two or three already.
    before, after = (LayerRunner(s, dtype=torch.float32, device=device, ahead=False) for s in (original, pruned))
    third = None if healed is None else LayerRunner(healed, dtype=torch.float32, device=device, ahead=False)
    batches = [(domain, batch) for domain, windows in texts.items() for batch in _batches(windows)]
    total = sum(batch.numel() for _, batch in batches)
    layers: list[LayerProof] = []
    errors: list[LayerError] = []
    with torch.inference_mode(), progress("proving", total * (len(before.layers) + 1), "tokens") as advance:
        whole, small = _started(before, batches), _started(after, batches)
        other = [] if third is None else _started(third, batches)
        beside = repeat(None, len(before.layers)) if third is None else third.each_layer()
        for (number, _), _, _ in zip(before.each_layer(), after.each_layer(), beside, strict=True):
            here = {number: kept[number]} if number in kept else {}
            largest, differing = 0.0, 0
            off = [0.0, 0.0]
            for i, (_, batch) in enumerate(batches):
                with masked(before.model, anatomy, here):
                    expected = before.run(number, batch, small[i], behind=after)
                small[i] = after.run(number, batch, small[i])
                whole[i] = before.run(number, batch, whole[i])
                apart = _apart(expected, small[i])
                largest, differing = max(largest, float(apart.max())), differing + int((apart > TOLERANCE).sum())
                if third is not None:
                    other[i] = third.run(number, batch, other[i])
                    off = [s + float(_apart(whole[i], h).sum()) for s, h in zip(off, (small[i], other[i]), strict=True)]
                advance(batch.numel())
            layers.append(LayerProof(number, largest, differing))
            errors.append(LayerError(number, off[0] / total, off[1] / total))
        sums, healed_sums = (dict[str, torch.Tensor]() for _ in range(2))
        with ExitStack() as every:
            for runner in (before, after, third):
                if runner is not None:
                    every.enter_context(runner.outside())
            for i, (domain, batch) in enumerate(batches):
                one, ids = before.finish(batch, whole[i]).logits, batch.to(device)
                sums[domain] = sums.get(domain, 0) + _sums(ids, one, after.finish(batch, small[i]).logits)
                if third is not None:
                    two = third.finish(batch, other[i]).logits
                    healed_sums[domain] = healed_sums.get(domain, 0) + _sums(ids, one, two)
                advance(batch.numel())
    costs, healed_costs = ({domain: _cost(values) for domain, values in s.items()} for s in (sums, healed_sums))
    return Proof(total, tuple(layers), costs, None if third is None else Healing(tuple(errors), healed_costs))


def _started(runner: LayerRunner, batches: Sequence[tuple[str, torch.Tensor]]) -> list[torch.Tensor]:
    with runner.outside():
        return [runner.start(batch) for _, batch in batches]


def overall(costs: Mapping[str, Cost]) -> Cost:
    """Over the tokens of all domains."""
    tokens = sum(cost.tokens for cost in costs.values())

    def mean(name: str) -> float:
        return sum(getattr(cost, name) * cost.tokens for cost in costs.values()) / tokens

    return Cost(tokens, *(mean(name) for name in ("nll_before", "nll_after", "kl", "top1")))


def _batches(windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return batches_of(sorted(windows, key=len, reverse=True), BATCH_TOKENS)


def _apart(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """[tokens]: norm of the difference over the norm of what is expected."""
    expected, found = expected.flatten(0, 1), found.flatten(0, 1)
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)


def _sums(ids: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """float64 [5]: predicted tokens, and over these the sums of a Cost's other fields.

    ids [samples, length]; logits [samples, length, vocabulary]. One sample at a time: a vocabulary is wide.
    """
    total = torch.zeros(5, dtype=torch.float64)
    for tokens, one, two in zip(ids, before, after, strict=True):
        p, q = one[:-1].log_softmax(-1), two[:-1].log_softmax(-1)
        following = tokens[1:, None]
        total += torch.stack(
            [
                torch.tensor(len(following), dtype=torch.float64),
                -p.gather(1, following).double().sum().cpu(),
                -q.gather(1, following).double().sum().cpu(),
                (p.exp() * (p - q)).sum(-1).double().sum().cpu(),
                (p.argmax(-1) == q.argmax(-1)).double().sum().cpu(),
            ]
        )
    return total


def _cost(sums: torch.Tensor) -> Cost:
    tokens, *rest = sums.tolist()
    return Cost(int(tokens), *(value / tokens for value in rest))
