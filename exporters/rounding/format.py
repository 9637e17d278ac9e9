"""What the rounding room knows of a format: which levels a group of columns has at given scales, and which to try."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch


@dataclass(frozen=True)
class Levels:
    """How `nearest` counts, for kernels that do the same.

    kind: "floats" of `bits` bits behind the leading one, `smallest` the smallest normal one; "steps", whole multiples
    of the scale; "zero" and "minimum", the same with a zero point or a minimum; "table", numbers by halves of a level.
    low, high: the smallest and the largest, of a table its first and last half.
    """

    kind: Literal["floats", "steps", "zero", "minimum", "table"]
    low: float
    high: float
    bits: int = 0
    smallest: float = 1.0
    table: torch.Tensor | None = None


class Format(Protocol):
    """Tensors are float32, of B weights with R rows; parameters are [P, B, K, R] for K candidates, or [P, B, R].

    group: columns that share their parameters, or are rounded together. span: columns whose groups share something
    found first; None where that is found for whole rows, or there is nothing to share.
    """

    @property
    def group(self) -> int: ...

    @property
    def span(self) -> int | None: ...

    @property
    def levels(self) -> Levels | None:
        """None where no kernel counts so."""
        ...

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> torch.Tensor | None:
        """What the groups of a span share, [S, B, R], from its values [B, span, R] as they are when its turn comes, and
        the weight of each column's squared error [B, span]; None where there is nothing."""
        ...

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        """Parameters to try for a group [B, group, R], the index-th of its span."""
        ...

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        """Parameters to try in place of `held` [P, B, R] for a group whose best real values are `best`, now rounded to
        `values`, both [B, group, R]. moments: [B, group, group]."""
        ...

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `nearest` needs of parameters [P, B, K, R], had once for all columns of a group: [B, K, R] each."""
        ...

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        """The nearest level to each of values [B, K, R], written to `out`; values stay as they are."""
        ...
