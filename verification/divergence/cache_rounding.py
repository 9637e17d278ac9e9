"""Keys and values rounded as an FP8 cache holds them, where transformers' attention function gets them.

Families that compute attention by themselves are not reached.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sixfold.runner.attention_function import Attention, attention_around

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""float32 [samples, heads, length, channels] -> the same after quantization and back."""


@dataclass(frozen=True)
class CacheRounding:
    """Of one attention module's cache."""

    keys: Rounding
    values: Rounding


@contextmanager
def caches_rounded(model: Any, owners: Mapping[int, CacheRounding]) -> Iterator[None]:
    """While open, attention modules that `owners` names by id read rounded keys and values."""
    if not owners:
        yield
        return

    def around(function: Attention) -> Attention:
        def rounded(module: nn.Module, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
            owner = owners.get(id(module))
            if owner is not None:
                key, value = owner.keys(key), owner.values(value)
            return function(module, query, key, value, *rest, **more)

        return rounded

    with attention_around(model.config._attn_implementation, around):
        yield
