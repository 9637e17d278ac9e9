"""Causal attention on the CPU, faster and more exact than torch's kernel for sequences of calibration's length.

torch processes 512 keys at once, so up to that length causality saves nothing, and keys wider than values take another,
slow path. Here a block of queries attends only to the keys up to its own last position. All arithmetic is float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sixfold.runner.attention_function import Attention, attention_around

_QUERIES = 64
"""Queries that attend together: small blocks waste few keys beyond the diagonal, large blocks make efficient
products."""
_SCORES = 1 << 19
"""Scores that are held at once, so that they stay in the CPU's cache."""


@contextmanager
def fast_causal_attention(device: torch.device) -> Iterator[None]:
    """While open, transformers' models that use its sdpa attention compute what is causal, and has no other mask, by
    `causal_attention` on the processor; everything else as before."""
    if device.type != "cpu":
        yield
        return
    with attention_around("sdpa", _with_causal):
        yield


def _with_causal(before: Attention) -> Attention:
    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **more: Any,
    ) -> tuple[Any, ...]:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        plain = attention_mask is None and not dropout and more.get("position_bias") is None
        if causal and plain and query.shape[2] == key.shape[2]:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return causal_attention(query, key, value, scale).transpose(1, 2).contiguous(), None
        return before(module, query, key, value, attention_mask, dropout, scaling, is_causal, **more)

    return attend


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale x query key^T) value, each position over those up to itself: [samples, heads, length, width].

    query [samples, heads, length, channels]; key [samples, key heads, length, channels] and value [samples, key heads,
    length, width], where heads is a multiple of key heads, and neighboring heads share one. Rounded once, to query's
    dtype.
    """
    samples, heads, length, channels = query.shape
    shared = heads // key.shape[1]
    queries = query.reshape(-1, shared, length, channels)
    keys, values = key.reshape(-1, length, channels), value.reshape(-1, length, value.shape[-1])
    later = torch.full((_QUERIES, _QUERIES), -torch.inf).triu(1)
    together = max(1, _SCORES // (shared * _QUERIES * length))
    memory = torch.empty(min(together, len(keys)) * shared * _QUERIES * length)
    out = query.new_empty(len(keys), shared, length, value.shape[-1])
    for q, k, v, into in zip(*(tensor.split(together) for tensor in (queries, keys, values, out)), strict=True):
        q, k, v = q.float() * scale, k.float().mT, v.float()
        for first in range(0, length, _QUERIES):
            rows, last = q[:, :, first : first + _QUERIES], min(first + _QUERIES, length)
            number = last - first
            scores = memory[: len(q) * shared * number * last].view(len(q), shared * number, last)
            torch.bmm(rows.reshape(len(q), -1, channels), k[:, :, :last], out=scores)
            scores.view(-1, number, last)[:, :, first:] += later[:number, :number]
            torch.softmax(scores, -1, out=scores)
            into[:, :, first:last] = torch.bmm(scores, v[:, :last]).view(len(q), shared, number, -1)
    return out.view(samples, heads, length, -1)
