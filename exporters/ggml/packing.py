"""From the numbers of ggml's blocks to their bytes, as ggml-common.h lays them out; on any device."""

from dataclasses import dataclass

import torch
from gguf import GGMLQuantizationType as Type


@dataclass(frozen=True)
class Blocks:
    """B blocks of one type, of N weights in G groups.

    d: float16 [B]. m: float16 [B], of the types with a minimum. scales, minimums: int32 [B, G], of the types with
    groups, 0 and above but for Q6_K, and with the type's offset of 32 in Q3_K and IQ4_XS. codes: [B, N], 0 and above
    but for Q8_0.
    """

    d: torch.Tensor
    codes: torch.Tensor
    m: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    minimums: torch.Tensor | None = None


def pack(qtype: Type, blocks: Blocks) -> torch.Tensor:
    """uint8 [B, bytes of a block]. Of Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_XS and IQ4_NL."""
    codes = blocks.codes.to(torch.uint8)
    d = _bytes(blocks.d)
    m = d[:, :0] if blocks.m is None else _bytes(blocks.m)
    none = codes[:, :0]
    scales = none if blocks.scales is None else blocks.scales.to(torch.uint8)
    minimums = none if blocks.minimums is None else blocks.minimums.to(torch.uint8)
    match qtype:
        case Type.Q2_K:
            parts = [scales | minimums << 4, _interleaved(codes, 128, 2), d, m]
        case Type.Q3_K:
            parts = [_bits(codes >> 2, 32), _interleaved(codes & 3, 128, 2), _q3_scales(scales), d]
        case Type.Q4_K:
            parts = [d, m, _k4_scales(scales, minimums), _interleaved(codes, 64, 4)]
        case Type.Q5_K:
            parts = [d, m, _k4_scales(scales, minimums), _bits(codes >> 4, 32), _interleaved(codes & 15, 64, 4)]
        case Type.Q6_K:
            parts = [_interleaved(codes & 15, 128, 4), _interleaved(codes >> 4, 128, 2), scales, d]
        case Type.IQ4_XS:
            high = (scales >> 4).view(-1, 2, 4)
            high = high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6
            low = scales & 15
            parts = [d, high, low[:, 0::2] | low[:, 1::2] << 4, _interleaved(codes, 32, 4)]
        case Type.Q8_0:
            parts = [d, codes]
        case Type.Q4_0 | Type.Q4_1 | Type.IQ4_NL:
            parts = [d, m, _interleaved(codes, 32, 4)]
        case Type.Q5_0 | Type.Q5_1:
            fifth = (codes >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8, device=codes.device)
            parts = [d, m, fifth.sum(2, dtype=torch.uint8), _interleaved(codes & 15, 32, 4)]
        case _:
            raise ValueError(f"no packing for {qtype.name}")
    return torch.cat(parts, 1)


def as_read(qtype: Type, scales: torch.Tensor, minimums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ggml reads from the bits that it writes for scales and minimums [S, G], of 0..255.

    A negative one is a byte with upper bits. Q5_K cuts it off; in the others these bits run into a neighbor.
    """
    if qtype == Type.Q5_K:
        return scales.clamp(max=63), minimums.clamp(max=63)
    if qtype == Type.Q2_K:
        return scales & 15, (minimums | scales >> 4) & 15
    return _six_bits(scales), _six_bits(minimums)


def _six_bits(codes: torch.Tensor) -> torch.Tensor:
    first, last = codes[:, :4], codes[:, 4:]
    return torch.cat([first & 63, last & 15 | ((last >> 4 | first >> 6) & 3) << 4], 1)


def _bytes(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.contiguous().view(torch.uint8).view(-1, 2)


def _interleaved(codes: torch.Tensor, span: int, bits: int) -> torch.Tensor:
    """Of each `span` codes, 8 / bits parts of equal length, the first in the lowest bits of the bytes."""
    parts = codes.view(codes.shape[0], -1, 8 // bits, span * bits // 8)
    packed = parts[:, :, 0].clone()
    for n in range(1, 8 // bits):
        packed |= parts[:, :, n] << bits * n
    return packed.flatten(1)


def _bits(codes: torch.Tensor, length: int) -> torch.Tensor:
    """Eight runs of `length` bits, the first run in the lowest bit of the bytes."""
    runs = codes.view(-1, 8, length)
    packed = runs[:, 0].clone()
    for n in range(1, 8):
        packed |= runs[:, n] << n
    return packed


def _q3_scales(scales: torch.Tensor) -> torch.Tensor:
    """Sixteen 6-bit numbers: the low halves of n and n + 8 in byte n, upper two bits of n, n + 4, ... in 8 + n % 4."""
    high = (scales >> 4).view(-1, 4, 4)
    return torch.cat(
        [
            scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4,
            high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6,
        ],
        1,
    )


def _k4_scales(scales: torch.Tensor, minimums: torch.Tensor) -> torch.Tensor:
    """Eight 6-bit scales and minimums: 0..3 whole, in whose upper bits are those of 4..7."""
    return torch.cat(
        [
            scales[:, :4] | scales[:, 4:] >> 4 << 6,
            minimums[:, :4] | minimums[:, 4:] >> 4 << 6,
            scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4,
        ],
        1,
    )
