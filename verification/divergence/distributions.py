"""Distributions over the next token, and how far an artifact's are from the source's: a batch at a time.

A row of the vocabulary for every token is what takes memory, and one pass over such rows what takes time. So
everything is computed from a few rows at a time, which stay in a processor's cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional

_CACHED = 1 << 18
"""Numbers that a processor's cache holds several times."""

_TOP = 5


@dataclass(frozen=True)
class Distributions:
    """Of one batch, [samples, length, ...]. log: log-probabilities, float32 [.., vocabulary]. best: the five most
    likely tokens, int64 [.., 5], the first one first. loss: of each token that follows another, [samples * (length -
    1)]."""

    log: torch.Tensor
    best: torch.Tensor
    loss: torch.Tensor

    @cached_property
    def probabilities(self) -> torch.Tensor:
        return self.log.exp()


def distributions(logits: torch.Tensor, ids: torch.Tensor, following: torch.Tensor | None = None) -> Distributions:
    """logits: float32 [samples, length, vocabulary], which is written over. ids: int64 [samples, length]. following:
    the tokens behind the first so many of them, where these are a part of longer samples."""
    logits = logits.contiguous()
    rows = logits.flatten(0, 1)
    best = torch.empty((rows.shape[0], _TOP), dtype=torch.int64, device=rows.device)
    for some in _pieces(rows):
        rows[some] = rows[some].log_softmax(-1)
        best[some] = top5(rows[some])
    after = (ids[:, 1:] if following is None else following).to(rows.device).unsqueeze(-1)
    loss = -logits[:, : after.shape[1]].gather(-1, after).flatten()
    return Distributions(logits, best.unflatten(0, ids.shape), loss)


def divergences(p: Distributions, q: Distributions) -> torch.Tensor:
    """KL of q from p, float32 [tokens]."""
    if p is q:
        return torch.zeros(p.best.shape[0] * p.best.shape[1])
    weights, ours, theirs = (x.flatten(0, 1) for x in (p.probabilities, p.log, q.log))
    found = [(weights[some] * (ours[some] - theirs[some])).sum(-1) for some in _pieces(ours)]
    return torch.cat(found).clamp(min=0).cpu()


def agreement(p: Distributions, q: Distributions) -> tuple[float, float]:
    """(tokens whose most likely successor is p's, tokens times the share of p's five that are among q's five)."""
    first = float((p.best[..., 0] == q.best[..., 0]).sum())
    return first, float((p.best.unsqueeze(-1) == q.best.unsqueeze(-2)).any(-1).sum()) / _TOP


def top5(rows: torch.Tensor) -> torch.Tensor:
    """The places of the five largest numbers of each row (or as many as there are), the largest first: int64 [rows, 5].

    They are in the five groups with the largest maxima, if every `width`th number makes a group.
    """
    count, size = rows.shape
    width = 1 << (max(1, int((_TOP * size) ** 0.5)) - 1).bit_length()
    if size <= 4 * width:
        return rows.topk(_TOP, dim=-1).indices
    grouped = functional.pad(rows, (0, -size % width), value=-torch.inf).unflatten(1, (-1, width))
    groups = grouped.amax(1).topk(_TOP, dim=-1).indices
    members = grouped.gather(2, groups.unsqueeze(1).expand(count, grouped.shape[1], _TOP)).flatten(1)
    found = members.topk(_TOP, dim=-1).indices
    return found // _TOP * width + groups.gather(1, found % _TOP)


def _pieces(rows: torch.Tensor) -> Iterator[slice]:
    step = rows.shape[0] if rows.is_cuda else max(1, _CACHED // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        yield slice(start, start + step)
