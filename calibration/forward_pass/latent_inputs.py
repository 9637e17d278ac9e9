"""What the two halves of kv_b_proj read in multi-head latent attention (see sixfold.model.latent_attention).

Neither is the input of a module, so both are taken where transformers calls its attention function: the query is
available there, and the attended latent is what the same function gives with latents in the place of values.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sixfold.model.latent_attention import HALVES, LatentHeads
from sixfold.runner.attention_function import Attention, attention_around
from sixfold.runner.process_group import Team


class LatentAccumulator:
    """Sums of squares per head and channel, in float64; count: tokens."""

    def __init__(self, heads: LatentHeads, device: torch.device) -> None:
        self.heads = heads
        self.count = {half: torch.zeros((), dtype=torch.int64, device=device) for half in HALVES}
        self.sum_sq = {
            half: torch.zeros(heads.heads, heads.channels(half), dtype=torch.float64, device=device) for half in HALVES
        }

    def add(self, half: str, first: int, rows: torch.Tensor) -> None:
        """rows [tokens, heads from `first` on, channels]."""
        last = first + rows.shape[1]
        for offset in range(rows.shape[1]):  # head by head: all of them in float32 would double what attention takes
            self.sum_sq[half][first + offset] += rows[:, offset].float().square_().sum(0)
        if last == self.heads.heads:
            self.count[half] += len(rows)

    def join(self, team: Team) -> None:
        """Make this process's sums those of all processes together."""
        for half in HALVES:
            team.add(self.count[half], self.sum_sq[half])

    def finish(self) -> dict[str, torch.Tensor]:
        """The statistics by name, on the CPU; none if transformers did not call its attention function."""
        found = {}
        for half in HALVES:
            if self.count[half]:
                found[f"{half}_count"] = self.count[half].cpu()
                found[f"{half}_sq"] = self.sum_sq[half].float().cpu()
        return found


@contextmanager
def latents_watched(
    model: Any,
    accumulators: Mapping[str, LatentAccumulator],
    modules: Mapping[str, str],
    counted: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """While open, every attention that reads its latents through one of the Linears is recorded.

    accumulators: by the Linear's on-disk name. modules: its name -> its module's name in `model`. counted: of rows
    [tokens of the batch, ...] those whose tokens statistics count.
    Families that do not call transformers' attention interface stay unrecorded.
    """
    if not accumulators:
        yield
        return
    found = dict(model.named_modules())
    latents: dict[int, torch.Tensor] = {}
    owners = {id(found[modules[linear].rpartition(".")[0]]): accumulators[linear] for linear in accumulators}

    def around(attend: Attention) -> Attention:
        def watched(
            module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
        ) -> Any:
            accumulator = owners.get(id(module))
            if accumulator is not None:

                def gathered(some: slice, values: torch.Tensor) -> torch.Tensor:
                    attended: torch.Tensor = attend(module, query[:, some], key[:, some], values, *rest, **more)[0]
                    return attended

                at_once = accumulator.heads.heads if hasattr(module, "sinks") else 1  # which all heads have one of
                _record(accumulator, query, latents.pop(id(module)), gathered, counted, at_once)
            return attend(module, query, key, value, *rest, **more)

        return watched

    def remember(owner: int) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            latents[owner] = args[0]

        return hook

    handles = [
        found[modules[linear]].register_forward_pre_hook(remember(id(found[modules[linear].rpartition(".")[0]])))
        for linear in accumulators
    ]
    try:
        with attention_around(model.config._attn_implementation, around):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _record(
    accumulator: LatentAccumulator,
    query: torch.Tensor,
    latent: torch.Tensor,
    gathered: Callable[[slice, torch.Tensor], torch.Tensor],
    counted: Callable[[torch.Tensor], torch.Tensor],
    at_once: int,
) -> None:
    """query [samples, heads, length, channels], the rotary part last; latent [samples, (1,) length, channels].

    gathered: what attention makes of values [samples, some heads, length, channels] for these heads: [samples, length,
    heads, channels]. at_once: heads at least.
    """
    heads = accumulator.heads
    accumulator.add("query", 0, counted(query[..., : heads.key].transpose(1, 2).flatten(0, 1)))
    values = latent.reshape(query.shape[0], 1, query.shape[2], heads.latent)
    # A few heads at a time, so that what attention gives back is no larger than the query.
    step = max(at_once, heads.heads * query.shape[-1] // heads.latent)
    for first in range(0, heads.heads, step):
        last = min(first + step, heads.heads)
        rows = gathered(slice(first, last), values.expand(-1, last - first, -1, -1))
        accumulator.add("attended", first, counted(rows.flatten(0, 1)))
