"""What a layer's experts read and what is missing, of all tokens, and which of them are whose."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

ROWS = 16384
"""Tokens whose products are in memory together."""


@dataclass(frozen=True)
class Seen:
    """What a layer's experts read and what is missing. inputs [tokens, hidden] in the model's dtype; index int64 and
    gates float32 [tokens, top-k], as the pruned model's router gave them; missing float32 [tokens, hidden], changed in
    place; kinds int64 [tokens], of text, from 0."""

    inputs: torch.Tensor
    index: torch.Tensor
    gates: torch.Tensor
    missing: torch.Tensor
    kinds: torch.Tensor

    def inputs_of(self, tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
        return self.inputs.index_select(0, tokens.to(self.inputs.device)).to(device)

    def missing_of(self, tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
        return self.missing.index_select(0, tokens.to(self.missing.device)).to(device)

    def give(self, tokens: torch.Tensor, given: torch.Tensor) -> None:
        """Less is missing by [N, hidden], of N different tokens."""
        self.missing.index_add_(0, tokens.to(self.missing.device), (-given).to(self.missing.device))


@dataclass(frozen=True)
class Routed:
    """Tokens of one expert, by kind of text, and their gates."""

    tokens: torch.Tensor
    gates: torch.Tensor
    counts: tuple[int, ...]


def by_expert(seen: Seen, experts: int) -> Iterator[Routed]:
    top_k, kinds = seen.index.shape[1], int(seen.kinds.max()) + 1
    choice = seen.index.reshape(-1) * kinds + seen.kinds.repeat_interleave(top_k)
    pairs = choice.sort(stable=True).indices
    counts = torch.bincount(choice, minlength=experts * kinds).view(experts, kinds)
    gates = seen.gates.reshape(-1)
    for own, by_kind in zip(pairs.split(counts.sum(1).tolist()), counts.tolist(), strict=True):
        yield Routed(own // top_k, gates[own], tuple(by_kind))


def norm(values: torch.Tensor) -> float:
    """In float64, some rows after the other."""
    return float(sum(part.square().sum(dtype=torch.float64) for part in values.split(ROWS)) ** 0.5)
