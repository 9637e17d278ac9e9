"""Which search is whose, and tensors of any size in pieces.

The bytes are those of libggml-base in the x86-64 wheel of libggml-python 0.20.2, which exports on the CPU use: plain
SSE2 without fused multiply-adds, sums in the source's order. A ggml-base whose compiler was allowed to contract
a * b + c (GCC does so where the target has the instruction: -march=native, ARM) rounds some sums differently, and may
then choose other scales.

`SEARCHES[qtype]` gives scales, minimums and codes as numbers, `pack` makes bytes of them: a rounding of its own may
replace the codes between the two.
"""

from collections.abc import Callable, Iterator

import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.cuda import k_quants, small_blocks
from exporters.ggml.packing import Blocks, pack

_PIECE = 2**26
"""Weights encoded at a time: what is held beside input and output is about 20 bytes for each."""

Search = Callable[[torch.Tensor, Type, torch.Tensor | None], Blocks]

SEARCHES: dict[Type, Search] = {
    Type.Q2_K: k_quants.affine,
    Type.Q3_K: k_quants.symmetric,
    Type.Q4_K: k_quants.affine,
    Type.Q5_K: k_quants.affine,
    Type.Q6_K: k_quants.symmetric,
    Type.IQ4_XS: k_quants.codebook,
    Type.Q8_0: small_blocks.eight_bits,
    Type.Q4_0: small_blocks.symmetric,
    Type.Q4_1: small_blocks.affine,
    Type.Q5_0: small_blocks.symmetric,
    Type.Q5_1: small_blocks.affine,
    Type.IQ4_NL: small_blocks.codebook,
}
"""By type, what finds the blocks of contiguous rows [R, C] with importance float32 [C] or None."""


def encode(rows: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of rows [R, C], uint8, and a bool whether all weights and scales are finite; both on the device."""
    packed, sound = [], []
    with torch.cuda.device_of(rows):  # Triton launches on the current device
        for piece in _pieces(rows):
            blocks = SEARCHES[qtype](piece, qtype, importance)
            sound += [part.isfinite().all() for part in (piece, blocks.d, blocks.m) if part is not None]
            packed.append(pack(qtype, blocks).flatten())
        return torch.cat(packed), torch.stack(sound).all()


def _pieces(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    step = max(1, _PIECE // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].contiguous()
