"""Several processes, one per device, that share the batches of one pass."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

_PIECE = 1 << 26
"""Numbers that are added at once: what others sent of them is held beside the tensor."""


@dataclass(frozen=True)
class Team:
    """A process's rank among `size` of them; a single process by default. Batch b belongs to process b mod size.

    apart: whether they are on several machines, which see what another has written once it is on the disk they share.
    All methods are collective: every process calls them in the same order. Nothing happens where there is only one.
    """

    rank: int = 0
    size: int = 1
    apart: bool = False

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

    def tell(self, value: Any) -> Any:
        """The leader's value, which can be pickled."""
        told = [value]
        if self.size > 1:
            distributed.broadcast_object_list(told, 0)
        return told[0]

    def add(self, *tensors: torch.Tensor) -> None:
        """Sum over the processes, in place and in the order of ranks: all_reduce would add in an order that depends on
        what joins the devices. Each process adds a part of the numbers, and gives it to all."""
        for tensor in tensors if self.size > 1 else ():
            for piece in tensor.view(-1).split(_PIECE):
                parts = piece.tensor_split(self.size)
                own = parts[self.rank]
                found = own.new_empty(self.size, len(own))
                distributed.all_to_all_single(
                    found.view(-1), piece, [len(own)] * self.size, [len(part) for part in parts]
                )
                own.copy_(found[0])
                for other in found[1:]:
                    own += other
                for rank, part in enumerate(parts):
                    if len(part):
                        distributed.broadcast(part, rank)

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
