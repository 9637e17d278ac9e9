"""What is done to a tower's rows before they are encoded, by the transforms that `arranging.py` writes into plans."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn.functional import softplus

Sizes = Sequence[str]


def _frame(rows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    return rows[:, :, int(sizes[0])].contiguous()


def _patches(rows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    side = int(sizes[0])
    return rows.reshape(-1, side, side, rows.shape[-1] // side**2).permute(0, 3, 1, 2).contiguous()


def _colors(rows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    side = int(sizes[0])
    return rows.unflatten(-1, (side, side, 3)).movedim(-1, -3).flatten(-3).contiguous()


def _quarters(rows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """rows [3 * heads * size, ...]: of each head of queries and of keys, pairs of rows by turns along two axes come
    apart, those of one axis before those of the other."""
    size = int(sizes[0])
    queries_and_keys, values = rows[: rows.shape[0] * 2 // 3], rows[rows.shape[0] * 2 // 3 :]
    heads = queries_and_keys.reshape(-1, size // 4, 2, 2, *rows.shape[1:]).transpose(1, 2)
    return torch.cat([heads.reshape(queries_and_keys.shape), values])


def _axes(rows: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    head, each = map(int, sizes)
    heads = rows.view(-1, head, *rows.shape[1:])
    turning = heads[:, : 6 * each].unflatten(1, (2, 3, each)).transpose(1, 2).flatten(1, 3)
    return torch.cat((turning, heads[:, 6 * each :]), 1).reshape(rows.shape)


ARITHMETIC: Mapping[str, Callable[[torch.Tensor, Sizes], torch.Tensor]] = {
    "axes": _axes,
    "by_axis": lambda rows, sizes: rows.transpose(0, 1).contiguous(),
    "colors": _colors,
    "frame": _frame,
    "joined": lambda rows, sizes: rows.flatten(0, 1),
    "patches": _patches,
    "quarters": _quarters,
    "row": lambda rows, sizes: rows[0],
    "scalar": lambda rows, sizes: rows.reshape(1),
    "softplus": lambda rows, sizes: softplus(rows.float()),
}
"""By the first word of a transform:
"axes:D:A"   of each head of D rows, row h * 3 * A + a * A + n (h < 2, a < 3, n < A) comes to a * 2 * A + h * A + n
"by_axis"    [N, A, C] becomes [A, N, C]
"colors:S"   of the last S * S * 3, colors last, those of one color behind each other
"frame:T"    of [R, C, T, H, W] the T-th
"joined"     [H, W, C] becomes [H * W, C]
"patches:S"  [R, S * S * C] with colors last becomes [R, C, S, S]
"quarters:D" of each head of D rows of queries and keys, row 4 * i + 2 * a + b (a, b < 2) comes to a * D / 2 + 2 * i + b
"row"        of [1, C] the one
"scalar"     [] becomes [1]
"softplus"   in float32
"""
