"""What llama.cpp rounds in multi-head latent attention, where it holds kv_b_proj in two halves.

The half of keys takes the query (without its rotary part) to the latents, and the half of values what attention has
gathered of the latents to a head's output: these two are rounded there, and not the latent that kv_b_proj reads in a
checkpoint. Both pass where transformers calls its attention function; there, values are computed again from the
attended latents.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sixfold.model.latent_attention import LatentHeads
from sixfold.runner.attention_function import Attention, attention_around

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""float32 [..., channels] -> the same after quantization and back."""


@dataclass(frozen=True)
class LatentRounding:
    """query: of [..., channels of a key without its rotary part]. attended: of [..., channels of the latent]."""

    heads: LatentHeads
    query: Rounding
    attended: Rounding


@dataclass
class LatentAttention:
    """One attention module's: projection is its kv_b_proj; latent what that has last read, [samples, length, rank]."""

    rounding: LatentRounding
    projection: nn.Module
    latent: torch.Tensor | None = None

    def attend(self, function: Any, module: nn.Module, query: torch.Tensor, key: torch.Tensor, rest: Any) -> Any:
        """What `function` returns, [samples, length, heads, channels] first."""
        heads, latent = self.rounding.heads, self.latent
        if latent is None:
            raise ValueError("kv_b_proj has read nothing before attention was called")
        query = torch.cat((self.rounding.query(query[..., : heads.key]), query[..., heads.key :]), -1)
        values = latent.reshape(query.shape[0], 1, key.shape[2], heads.latent).expand(-1, heads.heads, -1, -1)
        attended, *others = function(module, query, key, values, *rest[0], **rest[1])
        weight: Any = self.projection.weight
        by_head = weight.view(heads.heads, -1, heads.latent)[:, heads.key :]
        return torch.einsum("slhr,hvr->slhv", self.rounding.attended(attended), by_head), *others


@contextmanager
def latents_rounded(model: Any, owners: dict[int, LatentAttention]) -> Iterator[None]:
    """While open, attention modules that `owners` names by id compute so. Families that do not call transformers'
    attention interface stay as they are."""
    if not owners:
        yield
        return

    def around(function: Attention) -> Attention:
        def rounded(module: nn.Module, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
            owner = owners.get(id(module))
            if owner is None:
                return function(module, query, key, value, *rest, **more)
            return owner.attend(function, module, query, key, (rest, more))

        return rounded

    with attention_around(model.config._attn_implementation, around):
        yield
