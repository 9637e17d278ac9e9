"""One MoE block on a Hopper GPU, with every statistic of it gathered in the pass.

The pairs of token and slot are sorted by expert; the up input is copied into that order and counted while it is read;
two grouped products follow (calibration/grouped_gemm.py), the first with SwiGLU in its epilogue; the last kernel adds
each token's expert outputs and takes their norms from the rows that it reads anyway. Nothing larger than
[tokens x top-k, hidden] exists, nothing waits for the host, and the same input gives the same bits.

Memory beside inputs, weights and output: about pairs x (hidden + intermediate) x 2 bytes with pairs = tokens x top-k;
0.66 GB for 8192 tokens of MiniMax-M2.7, of which pairs x intermediate x 2 bytes stay with the result.
"""

from dataclasses import dataclass

import torch
import triton

from calibration.grouped_gemm import LEAD, grouped_product, grouped_swiglu
from calibration.triton_kernels import (
    TAIL,
    TILE,
    add_tiles,
    combine_slots,
    count_pairs,
    expert_totals,
    gather_rows,
    place_pairs,
    scan_blocks,
    schedule_tiles,
)

_BLOCK = 128
_COLUMNS = 1024


@dataclass(frozen=True)
class SiteSums:
    """Per expert and input channel, over the expert's tokens: float32 [experts, channels]."""

    sum_sq: torch.Tensor
    sum_abs: torch.Tensor
    abs_max: torch.Tensor


@dataclass(frozen=True)
class ExpertPass:
    """What one pass through a MoE block's experts measured, all on the device.

    counts: int64 [experts], tokens routed to each expert.
    up, down: the sums of the up input (the block's hidden states) and of the down input (the inner activations).
    gate_sum, norm_sum, norm_sq_sum, saliency_sum: float32 [experts]; the norm is the L2 norm of the expert's output
    before the gate, saliency is gate x norm. norm_max, output_max: float32 [experts].
    order: int64 [pairs], the pair (token x top-k + slot) in each row, rows sorted by expert and within it by token;
    an expert's rows end at counts.cumsum(0). inner: bfloat16 [pairs, intermediate], the down input in row order; row
    `r` of the up input is hidden[order[r] // top_k].
    """

    counts: torch.Tensor
    up: SiteSums
    down: SiteSums
    gate_sum: torch.Tensor
    norm_sum: torch.Tensor
    norm_sq_sum: torch.Tensor
    saliency_sum: torch.Tensor
    norm_max: torch.Tensor
    output_max: torch.Tensor
    order: torch.Tensor
    inner: torch.Tensor


def fits(hidden: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether `routed_experts` takes these tensors: BF16 on a Hopper GPU, contiguous, with widths that TMA addresses."""
    tensors = (hidden, gate_up, down)
    return (
        hidden.is_cuda
        and torch.cuda.get_device_capability(hidden.device)[0] == 9
        and all(tensor.dtype == torch.bfloat16 and tensor.is_contiguous() for tensor in tensors)
        and all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
        and hidden.shape[1] % 16 == 0
        and down.shape[2] % 16 == 0
        and len(hidden) > 0
    )


def routed_experts(
    hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, ExpertPass]:
    """The experts' output [tokens, hidden] in bfloat16, and what was measured on the way; see `fits` for the inputs.

    hidden [tokens, hidden]; index int64 [tokens, top-k], each below the number of experts; weights [tokens, top-k] the
    gate values actually applied, any float dtype; gate_up [experts, 2 x intermediate, hidden], the gate's rows first;
    down [experts, hidden, intermediate]. Per pair silu(gate) * up with both in float32, rounded once; per token the
    expert outputs (rounded to bfloat16) times their gates, added in float32.
    """
    (tokens, width), (experts, _, intermediate), top_k = hidden.shape, down.shape, index.shape[1]
    pairs, device = tokens * top_k, hidden.device
    index, weights = index.contiguous(), weights.contiguous()

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    counts, ends = empty(experts, dtype=torch.int64), empty(experts, dtype=torch.int64)
    order, place = empty(pairs, dtype=torch.int64), empty(pairs, dtype=torch.int32)
    tiles = experts + pairs // TILE
    schedule, first_tile = empty(tiles, 4, dtype=torch.int32), empty(experts + 1, dtype=torch.int32)
    blocks, bins = triton.cdiv(pairs, _BLOCK), triton.next_power_of_2(experts)
    found = empty(blocks, bins, dtype=torch.int32)
    count_pairs[(blocks,)](index, found, pairs, EXPERTS=bins, BLOCK=_BLOCK)
    scan_blocks[(experts,)](found, counts, blocks, EXPERTS=bins, BLOCKS=512)
    schedule_tiles[(experts,)](counts, ends, schedule, first_tile, experts, EXPERTS=bins, TILE=TILE, TAIL=TAIL)
    place_pairs[(blocks,)](index, found, counts, ends, order, place, pairs, EXPERTS=bins, BLOCK=_BLOCK)

    rows, inner = (empty(LEAD + pairs, channels, dtype=torch.bfloat16) for channels in (width, intermediate))
    routed, activations = rows[LEAD:], inner[LEAD:]
    up, up_tiles = empty(3, experts, width), empty(tiles, 3, width)
    grid = (triton.cdiv(width, _COLUMNS), tiles)
    gather_rows[grid](
        hidden,
        order,
        schedule,
        first_tile,
        routed,
        up_tiles,
        width,
        top_k,
        experts,
        REPEATS=8,
        ROWS=1,
        COLUMNS=_COLUMNS,
    )
    add_tiles[(triton.cdiv(width, 128), experts)](up_tiles, first_tile, up, width, experts, COLUMNS=128)

    total = first_tile[experts:]
    inner_site, inner_tiles = empty(3, experts, intermediate), empty(tiles, 3, intermediate)
    grouped_swiglu(rows, gate_up, schedule, total, activations, inner_tiles)
    add_tiles[(triton.cdiv(intermediate, 128), experts)](
        inner_tiles, first_tile, inner_site, intermediate, experts, COLUMNS=128
    )
    grouped_product(inner, down, schedule, total, routed)

    output, norms, peaks = torch.empty_like(hidden), empty(pairs), empty(pairs)
    combine_slots[(tokens,)](
        routed,
        place,
        weights,
        output,
        norms,
        peaks,
        width,
        TOP_K=top_k,
        SLOTS=triton.next_power_of_2(top_k),
        COLUMNS=256,
        LANES=32,
        num_warps=1,
    )
    sums, maxima = empty(4, experts), empty(2, experts)
    expert_totals[(experts,)](order, ends, counts, weights, norms, peaks, sums, maxima, experts, ROWS=256)
    return output, ExpertPass(counts, SiteSums(*up), SiteSums(*inner_site), *sums, *maxima, order, activations)
