"""Token ids in the batches that run together."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

import torch

from sixfold.runner.layer_runner import batches_of

BATCH_TOKENS = 8192
"""Tokens that run together (at least one sample). Part of the definition: other batches round differently in BF16."""


@dataclass(frozen=True)
class Batches:
    """What a pass runs. ids: of each batch, int64 [samples, length], no padding. starts: position of each batch's first
    token among all. ranks: int64 [tokens], a permutation: the lower a token's, the sooner its row is sampled. counted:
    bool [tokens], the tokens that statistics count; all if None."""

    ids: tuple[torch.Tensor, ...]
    starts: tuple[int, ...]
    ranks: torch.Tensor
    counted: torch.Tensor | None = None

    @property
    def counted_tokens(self) -> int:
        return len(self.ranks) if self.counted is None else int(self.counted.sum())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(batch.shape) for batch in self.ids]


def batched(ids: torch.Tensor, seed: int, left_out: Collection[int] = ()) -> Batches:
    """ids: int64 [samples, length]. left_out: token ids that statistics do not count."""
    parts = tuple(batches_of(list(ids), BATCH_TOKENS))
    starts = tuple(accumulate((part.numel() for part in parts[:-1]), initial=0))
    ranks = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(seed))
    counted = ~torch.isin(ids.reshape(-1), torch.tensor(sorted(left_out))) if left_out else None
    return Batches(parts, starts, ranks, counted)
