"""What llama.cpp's converter does to some tensors of a tower, written out as it is defined, index by index."""

import torch
from torch.nn.functional import softplus


def as_held(tensor: torch.Tensor, done: str, heads: int) -> torch.Tensor:
    """float32, in the shape of the file. tensor: as the source has it. done: see names.py. heads: of the tower."""
    values = tensor.float()
    what, _, number = done.partition(" ")
    match what:
        case "third":
            return values.chunk(3)[int(number)]
        case "half":
            return values.chunk(2)[int(number)]
        case "unflattened":
            side = round((values.shape[1] / 3) ** 0.5)
            return values.unflatten(1, (3, side, side))
        case "frame":
            return values.unbind(2)[int(number)]
        case "interleaved":
            return values[_interleaved(len(values), heads)]
        case "axes":
            return values[_axes_apart(len(values), heads)]
        case "three":
            return values[_three_axes(len(values), heads)]
        case "pixels":
            side = round((values.shape[1] / 3) ** 0.5)
            return values.unflatten(1, (side, side, 3)).movedim(3, 1)
        case "colors":
            return values[..., _colors_apart(values.shape[-1])]
        case "by":
            return torch.stack(values.unbind(1))
        case "from":
            return values[1:]
        case "column":
            return values[:, None]
        case "joined":
            return torch.cat(values.unbind(0))
        case "plus":
            return values + 1
        case "softplus":
            return softplus(values)
        case "squeeze":
            return values.flatten(1)
        case "scalar":
            return values.reshape(1)
    return values


def _interleaved(rows: int, heads: int) -> list[int]:
    """The two halves of each head by turns."""
    size = rows // heads
    return [head * size + half * (size // 2) + n for head in range(heads) for n in range(size // 2) for half in (0, 1)]


def _three_axes(rows: int, heads: int) -> list[int]:
    """Of each head, along an axis a third of the first half and a third of the second, as far as whole pairs of each
    axis go; the rest behind."""
    size = rows // heads
    each = 2 * (size // 2) // 3 // 2
    turning = [half * 3 * each + axis * each + n for axis in range(3) for half in (0, 1) for n in range(each)]
    return [head * size + row for head in range(heads) for row in (*turning, *range(6 * each, size))]


def _colors_apart(values: int) -> list[int]:
    """Of pixels that lie row by row, each with its three colors, all of a color behind each other."""
    return [3 * pixel + color for color in range(3) for pixel in range(values // 3)]


def _axes_apart(rows: int, heads: int) -> list[int]:
    """Of queries and of keys: of every four rows of a head the first two, then the others; values as they are."""
    third = rows // 3
    size = third // heads
    order = [4 * quarter + 2 * axis + n for axis in (0, 1) for quarter in range(size // 4) for n in (0, 1)]
    heads_of_both = [head * size + row for head in range(2 * heads) for row in order]
    return heads_of_both + list(range(2 * third, rows))
