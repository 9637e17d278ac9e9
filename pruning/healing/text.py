"""What experts are refitted to: windows of the calibration's texts, and windows of random tokens, text of no kind.

What is refitted is to give what the original gave, and the original says what that is for any input. Texts say little
of inputs unlike them: other languages, tokens that the texts lack. Random tokens reach those, and are a kind of text of
their own when the damping is chosen.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch

SHARE = 0.25
"""Windows of random tokens, of the number of the texts' windows."""


@dataclass(frozen=True)
class Text:
    """ids: int64 [samples, length], of the texts. ordinary: int64 [tokens], those that random ones are drawn from: a
    special one (a turn's, an image's) would ask for more than text."""

    ids: torch.Tensor
    ordinary: torch.Tensor

    @cached_property
    def random(self) -> torch.Tensor:
        """int64 [windows, length]: the same for the same number and length of the texts' windows."""
        size = (ceil(SHARE * len(self.ids)), self.ids.shape[1])
        return self.ordinary[torch.randint(len(self.ordinary), size, generator=torch.Generator().manual_seed(0))]

    @property
    def tokens(self) -> int:
        """All of them together."""
        return self.ids.numel() + self.random.numel()
