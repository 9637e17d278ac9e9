"""Several processes, one per device, that share the batches of one pass."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Team:
    """A process's rank among `size` of them; a single process by default. Batch b belongs to process b mod size.

    All methods are collective: every process calls them in the same order. Nothing happens where there is only one.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reads the checkpoint and writes the results."""
        return self.rank == 0

    def owns(self, batch: int) -> bool:
        return batch % self.size == self.rank

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give the leader's values to all."""
        for tensor in tensors if self.size > 1 else ():
            distributed.broadcast(tensor, 0)

    def add(self, *tensors: torch.Tensor) -> None:
        """Sum over the processes, in place."""
        for tensor in tensors if self.size > 1 else ():
            distributed.all_reduce(tensor, distributed.ReduceOp.SUM)

    def largest(self, *tensors: torch.Tensor) -> None:
        """Element-wise maximum over the processes, in place."""
        for tensor in tensors if self.size > 1 else ():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every process's tensor (of one shape), in the order of ranks."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor.contiguous())
        return found


ALONE = Team()
