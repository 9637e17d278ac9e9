"""ggml's block types as numbers, scales and bases: a weight is number * scale + base.

Stated from the blocks of ggml-common.h and the dequantize_row functions of ggml-quants.c, in PyTorch, so that it runs
where the bytes are. Products are taken in the order of these functions and rounded as there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the codes of IQ4_NL and IQ4_XS stand for."""

_SUPERBLOCK = 256


@dataclass(frozen=True)
class Decoded:
    """Of rows of a tensor. numbers: float32 [rows, groups, weights of a group]. scale: float32 [rows, groups, 1]; base:
    the same, None where it is zero."""

    numbers: torch.Tensor
    scale: torch.Tensor
    base: torch.Tensor | None

    @property
    def values(self) -> torch.Tensor:
        """float32 [rows, columns]."""
        scaled = self.numbers * self.scale
        return (scaled if self.base is None else scaled.add_(self.base)).flatten(1)


@dataclass(frozen=True)
class BlockType:
    """nbytes: of a block. numbers: what codes stand for, in order; None where llama.cpp does not round codes to nearest
    after whatever search of scales. decode: uint8 [rows, blocks, nbytes] -> numbers, scale, base, each float32 [rows,
    blocks, groups, ...]."""

    nbytes: int
    numbers: tuple[int, ...] | None
    decode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]


def decoded(kind: str, data: torch.Tensor) -> Decoded:
    """data: uint8 [rows, bytes]. Raises ValueError where they are not whole blocks."""
    block = BLOCK_TYPES[kind]
    if data.shape[1] % block.nbytes:
        raise ValueError(f"rows of {data.shape[1]} bytes are no blocks of {kind}")
    numbers, scale, base = block.decode(data.unflatten(1, (-1, block.nbytes)))
    return Decoded(numbers.flatten(1, 2), scale.flatten(1, 2), None if base is None else base.flatten(1, 2))


def _f16(data: torch.Tensor, at: int) -> torch.Tensor:
    """[rows, blocks, 1, 1]."""
    return data[..., at : at + 2].contiguous().view(torch.float16).float().unsqueeze(-1)


def _signed(data: torch.Tensor) -> torch.Tensor:
    return data.contiguous().view(torch.int8).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """uint8 [..., bytes] -> [..., 2 * bytes]: all low ones, then all high ones."""
    return torch.cat((data & 15, data >> 4), -1)


def _bits(data: torch.Tensor) -> torch.Tensor:
    """uint8 [..., bytes] -> uint8 [..., 8 * bytes] of 0 and 1, the lowest bit first."""
    places = torch.arange(8, dtype=torch.uint8, device=data.device)
    return ((data.unsqueeze(-1) >> places) & 1).flatten(-2)


def _pairs(data: torch.Tensor) -> torch.Tensor:
    """uint8 [..., bytes] -> uint8 [..., 4, bytes] of 0 to 3, the lowest bits first."""
    places = torch.arange(0, 8, 2, dtype=torch.uint8, device=data.device).unsqueeze(-1)
    return (data.unsqueeze(-2) >> places) & 3


def _q8_0(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return _signed(data[..., 2:]).unsqueeze(-2), _f16(data, 0), None


def _q4_0(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return _nibbles(data[..., 2:]).float().sub_(8).unsqueeze(-2), _f16(data, 0), None


def _q4_1(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _nibbles(data[..., 4:]).float().unsqueeze(-2), _f16(data, 0), _f16(data, 2)


def _q5_0(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    codes = _nibbles(data[..., 6:]) + 16 * _bits(data[..., 2:6])
    return codes.float().sub_(16).unsqueeze(-2), _f16(data, 0), None


def _q5_1(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes = _nibbles(data[..., 8:]) + 16 * _bits(data[..., 4:8])
    return codes.float().unsqueeze(-2), _f16(data, 0), _f16(data, 2)


def _iq4(codes: torch.Tensor) -> torch.Tensor:
    return torch.tensor(IQ4, dtype=torch.float32).to(codes.device)[codes.int()]


def _iq4_nl(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return _iq4(_nibbles(data[..., 2:])).unsqueeze(-2), _f16(data, 0), None


def _q2_k(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scales = data[..., :16].unsqueeze(-1)
    codes = _pairs(data[..., 16:80].unflatten(-1, (2, 32))).flatten(-3).unflatten(-1, (16, 16))
    return codes.float(), _f16(data, 80) * (scales & 15).float(), -(_f16(data, 82) * (scales >> 4).float())


def _q3_k(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    low = _pairs(data[..., 32:96].unflatten(-1, (2, 32))).flatten(-3, -2)  # [.., 8, 32]
    places = torch.arange(8, dtype=torch.uint8, device=data.device).unsqueeze(-1)
    high = (data[..., :32].unsqueeze(-2) >> places) & 1
    codes = (low + 4 * high).flatten(-2).unflatten(-1, (16, 16))
    scales = _nibbles(data[..., 96:104]) + 16 * _pairs(data[..., 104:108]).flatten(-2)
    return codes.float().sub_(4), _f16(data, 108) * scales.float().sub_(32).unsqueeze(-1), None


def _scales_and_minima(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [..., 12] -> two of [..., 8, 1], of six bits each."""
    first, second, rest = data[..., :4], data[..., 4:8], data[..., 8:]
    scales = torch.cat((first & 63, (rest & 15) | (first >> 6 << 4)), -1)
    minima = torch.cat((second & 63, (rest >> 4) | (second >> 6 << 4)), -1)
    return scales.float().unsqueeze(-1), minima.float().unsqueeze(-1)


def _k_with_minima(data: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scales, minima = _scales_and_minima(data[..., 4:16])
    return codes.float(), _f16(data, 0) * scales, -(_f16(data, 2) * minima)


def _q4_k(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes = _nibbles(data[..., 16:].unflatten(-1, (4, 32))).flatten(-2).unflatten(-1, (8, 32))
    return _k_with_minima(data, codes)


def _q5_k(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    places = torch.arange(8, dtype=torch.uint8, device=data.device).unsqueeze(-1)
    low = _nibbles(data[..., 48:].unflatten(-1, (4, 32))).flatten(-2).unflatten(-1, (8, 32))
    high = (data[..., 16:48].unsqueeze(-2) >> places) & 1
    return _k_with_minima(data, low + 16 * high)


def _q6_k(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    low = _nibbles(data[..., :128].unflatten(-1, (2, 64)))  # [.., 2, 128]
    high = _pairs(data[..., 128:192].unflatten(-1, (2, 32))).flatten(-2)
    codes = (low + 16 * high).flatten(-2).unflatten(-1, (16, 16))
    return codes.float().sub_(32), _f16(data, 208) * _signed(data[..., 192:208]).unsqueeze(-1), None


def _iq4_xs(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    high = _pairs(data[..., 2:4]).transpose(-1, -2).flatten(-2)  # of each byte four, the lowest bits first
    low = torch.stack((data[..., 4:8] & 15, data[..., 4:8] >> 4), -1).flatten(-2)
    scales = (low + 16 * high).float().sub_(32)
    return _iq4(_nibbles(data[..., 8:].unflatten(-1, (8, 16)))), _f16(data, 0) * scales.unsqueeze(-1), None


def _range(low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high))


BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q8_0": BlockType(34, _range(-128, 128), _q8_0),
    "Q4_0": BlockType(18, _range(-8, 8), _q4_0),
    "Q4_1": BlockType(20, _range(0, 16), _q4_1),
    "Q5_0": BlockType(22, _range(-16, 16), _q5_0),
    "Q5_1": BlockType(24, _range(0, 32), _q5_1),
    "IQ4_NL": BlockType(18, IQ4, _iq4_nl),
    "Q2_K": BlockType(84, None, _q2_k),
    "Q3_K": BlockType(110, _range(-4, 4), _q3_k),
    "Q4_K": BlockType(144, _range(0, 16), _q4_k),
    "Q5_K": BlockType(176, _range(0, 32), _q5_k),
    "Q6_K": BlockType(210, _range(-32, 32), _q6_k),
    "IQ4_XS": BlockType(136, IQ4, _iq4_xs),
}
"""By ggml's names."""
