"""What happens to rows before they are encoded: llama.cpp orders some matrices differently from transformers."""

from collections.abc import Sequence

import torch

from exporters.ggml.projector.arithmetic import ARITHMETIC
from sixfold.model.gguf.arrangements import ValueHeads


def transformed(rows: torch.Tensor, transform: str) -> torch.Tensor:
    """rows: [R, C] (or [R] of a bias), whole heads. See exporters.ggml.tensors.Tensor for the transforms."""
    for step in transform.split("+"):
        rows = _step(rows, step)
    return rows


def _step(rows: torch.Tensor, transform: str) -> torch.Tensor:
    kind, *sizes = transform.split(":")
    if kind in ARITHMETIC:
        return ARITHMETIC[kind](rows, sizes)
    if kind == "rope":
        return _paired_rope(rows, *map(int, sizes))
    if kind == "times":
        return _times(rows.float(), sizes)
    if kind == "apart":
        turning, head = map(int, sizes)
        heads = rows.view(-1, head, *rows.shape[1:])
        parts = (heads[:, :turning:2], heads[:, 1:turning:2], heads[:, turning:])
        return torch.cat(parts, 1).reshape(rows.shape)
    if kind in ("k_b", "v_b"):
        k, v = int(sizes[0]), int(sizes[1])
        heads = rows.view(-1, k + v, rows.shape[-1])
        return heads[:, :k].transpose(1, 2).contiguous() if kind == "k_b" else heads[:, k:].contiguous()
    if kind == "tile":
        start, keys, each, size = map(int, sizes)
        tail = rows[start:].view(keys, each, size, *rows.shape[1:])
        return torch.cat([rows[:start], tail.transpose(0, 1).reshape(rows[start:].shape)])
    if kind == "rows":
        groups = rows.view(-1, int(sizes[0]), *rows.shape[1:])
        ranges = [range(*map(int, cut.split("-"))) for cut in sizes[1:]]
        return torch.cat([groups[:, cut.start : cut.stop].flatten(0, 1) for cut in ranges])
    if kind == "experts":
        first, last = map(int, sizes[0].split("-"))
        return rows[:, first:last].contiguous()
    if kind == "columns":
        return tiled_columns(rows, transform)
    if kind == "transpose":
        each = int(sizes[0]) if sizes else len(rows)
        return rows.unflatten(0, (-1, each)).transpose(1, 2).reshape(-1, each)
    if kind == "squeeze":
        return rows.squeeze(1)
    if kind == "minus_exp":
        return -rows.float().exp()
    return rows.float() + 1 if kind == "plus_one" else rows


def tiled_columns(rows: torch.Tensor, transform: str) -> torch.Tensor:
    """rows [..., C] in the order of columns that a transform "columns:K:P:D" gives; as they are for any other."""
    if not transform.startswith("columns:"):
        return rows
    return ValueHeads(*map(int, transform.split(":")[1:])).tiled(rows).contiguous()


def head_rows(transform: str) -> int:
    """Rows of the source for each head, of the transforms "k_b" and "v_b"."""
    _, k, v = transform.split(":")
    return int(k) + int(v)


def changes_columns(transform: str) -> bool:
    """Whether rows of the file are no rows of the source."""
    return transform.startswith(("k_b:", "v_b:", "values:", "columns:", "transpose"))


def values(transform: str) -> torch.Tensor:
    """float32, from a transform that carries its values with it, or of zeros."""
    if transform.startswith("zeros:"):
        return torch.zeros([int(size) for size in transform.split(":")[1:]])
    return torch.tensor([float.fromhex(value) for value in transform.removeprefix("values:").split(",")])


def _paired_rope(rows: torch.Tensor, head: int, turning: int | None = None) -> torch.Tensor:
    """transformers rotates row i of a head together with row i + head/2, llama.cpp's "llama" with its neighbor; where
    the first `turning` alone are rotated, so of these."""
    turning = turning or head
    heads = rows.view(-1, head, *rows.shape[1:])
    pairs = heads[:, :turning].unflatten(1, (2, turning // 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat((pairs, heads[:, turning:]), 1).reshape(rows.shape)


def _times(rows: torch.Tensor, factors: Sequence[str]) -> torch.Tensor:
    """factors: one of all rows, or in turn "F@N" of N rows. In float32, as llama.cpp's converter does."""
    if "@" not in factors[0]:
        return rows * float(factors[0])
    each = [factor.split("@") for factor in factors]
    parts = rows.split([int(count) for _, count in each])
    return torch.cat([part * float(factor) for part, (factor, _) in zip(parts, each, strict=True)])
