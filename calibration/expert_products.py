"""The matrix products of a layer's experts over rows that are sorted by expert: what transformers' experts compute."""

from typing import Any

import torch
from torch.nn import functional


def inner_products(module: Any, rows: torch.Tensor, expert_of: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """What the down projections read, [N, intermediate].

    module: transformers' experts module. rows [N, hidden], sorted by expert; expert_of int64 [N]; counts int64
    [experts], on the CPU.
    """
    if module.has_gate:
        inner: torch.Tensor = module._apply_gate(_product(module, "gate_up_proj", rows, expert_of, counts))
    else:
        inner = module.act_fn(_product(module, "up_proj", rows, expert_of, counts))
    return inner


def outer_products(module: Any, inner: torch.Tensor, expert_of: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The experts' outputs before the gate, [N, hidden]."""
    return _product(module, "down_proj", inner, expert_of, counts)


def _product(module: Any, name: str, rows: torch.Tensor, expert_of: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    weight = getattr(module, name)
    out = _by_expert(rows, weight.mT if module.is_transposed else weight, counts)
    return out.add_(getattr(module, name + "_bias")[expert_of]) if module.has_bias else out


def _by_expert(rows: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """weight [experts, out, in] -> [N, out]."""
    if rows.is_cuda:
        ends = counts.cumsum(0).int().to(rows.device)
        return functional.grouped_mm(rows, weight.mT, offs=ends)
    parts = zip(rows.split(counts.tolist()), weight, strict=True)
    return torch.cat([functional.linear(part, matrix) for part, matrix in parts if len(part)])
