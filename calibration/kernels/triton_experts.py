"""One MoE block on a Hopper GPU, with every statistic of it gathered in the pass.

The pairs of token and slot are sorted by expert; the up input is copied into that order and counted while it is read;
two grouped products follow (calibration/kernels/grouped_gemm.py), the first with SwiGLU and the inner activations'
sums in its epilogue; the last kernel adds each token's expert outputs and takes their norms from the rows that it
reads anyway. Nothing larger than [tokens x top-k, hidden] exists, nothing waits for the host, and the same input
gives the same bits.

Memory beside inputs and weights: about tokens x (top-k x (hidden + intermediate) + hidden) x 2 bytes, 0.7 GB for 8192
tokens of MiniMax-M2.7, of which the output and tokens x top-k x intermediate x 2 bytes stay with the result.

Needs triton, which comes with the CUDA builds of PyTorch; 3.6 or later.
"""

from dataclasses import dataclass

import torch
import triton

from calibration.kernels.grouped_gemm import LEAD, grouped_product, grouped_swiglu
from calibration.kernels.triton_kernels import (
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
    coactivation: int64 [experts, experts], tokens routed to both; the diagonal is counts.
    order: int64 [pairs], the pair (token x top-k + slot) in each row, rows sorted by expert and within it by pair;
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
    coactivation: torch.Tensor
    order: torch.Tensor
    inner: torch.Tensor


@dataclass(frozen=True)
class _Rows:
    """The row of each pair, and the tiles that cover the rows; see calibration/kernels/triton_kernels.py."""

    counts: torch.Tensor
    ends: torch.Tensor
    order: torch.Tensor
    place: torch.Tensor
    schedule: torch.Tensor
    first_tile: torch.Tensor


def fits(hidden: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether `routed_experts` takes these: BF16 on a Hopper GPU, contiguous, widths that are multiples of 16."""
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

    hidden [tokens, hidden]; index int64 [tokens, top-k], each below the number of experts and none twice in a token;
    weights [tokens, top-k] the gate values actually applied, any float dtype; gate_up [experts, 2 x intermediate,
    hidden], the gate's rows first; down [experts, hidden, intermediate]. Per pair silu(gate) * up with both in float32,
    rounded once; per token the expert outputs (rounded to bfloat16) times their gates, added in float32.
    """
    (tokens, width), (experts, _, intermediate), top_k = hidden.shape, down.shape, index.shape[1]
    pairs, device = tokens * top_k, hidden.device
    index, weights = index.contiguous(), weights.contiguous()
    found = _sorted(index, experts)
    tiles, total = len(found.schedule), found.first_tile[experts:]

    routed = torch.empty(LEAD + pairs, width, dtype=torch.bfloat16, device=device)
    tile_sums = torch.empty(tiles, 3, width, device=device)
    gather_rows[(triton.cdiv(width, _COLUMNS), tiles)](
        hidden,
        found.order,
        found.schedule,
        found.first_tile,
        routed[LEAD:],
        tile_sums,
        width,
        top_k,
        experts,
        REPEATS=8,
        ROWS=1,
        COLUMNS=_COLUMNS,
    )
    up = _site(tile_sums, found.first_tile)
    inner = torch.empty(LEAD + pairs, intermediate, dtype=torch.bfloat16, device=device)
    tile_sums = torch.empty(tiles, 3, intermediate, device=device)
    grouped_swiglu(routed, gate_up, found.schedule, total, inner[LEAD:], tile_sums)
    # The up input is not needed any more: the outputs take its place.
    grouped_product(inner, down, found.schedule, total, routed[LEAD:])

    output, norms, peaks = torch.empty_like(hidden), *torch.empty(2, pairs, device=device)
    combine_slots[(tokens,)](
        routed[LEAD:],
        found.place,
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
    sums, maxima = torch.empty(4, experts, device=device), torch.empty(2, experts, device=device)
    expert_totals[(experts,)](
        found.order, found.ends, found.counts, weights, norms, peaks, sums, maxima, experts, ROWS=256
    )
    gate_sum, norm_sum, norm_sq_sum, saliency_sum = sums
    norm_max, output_max = maxima
    return output, ExpertPass(
        counts=found.counts,
        up=up,
        down=_site(tile_sums, found.first_tile),
        gate_sum=gate_sum,
        norm_sum=norm_sum,
        norm_sq_sum=norm_sq_sum,
        saliency_sum=saliency_sum,
        norm_max=norm_max,
        output_max=output_max,
        coactivation=_coactivation(index, experts),
        order=found.order,
        inner=inner[LEAD:],
    )


def _sorted(index: torch.Tensor, experts: int) -> _Rows:
    """A stable counting sort of the pairs by expert, and the schedule of tiles."""
    pairs, device = index.numel(), index.device
    blocks, bins = triton.cdiv(pairs, _BLOCK), triton.next_power_of_2(experts)
    rows = _Rows(
        counts=torch.empty(experts, dtype=torch.int64, device=device),
        ends=torch.empty(experts, dtype=torch.int64, device=device),
        order=torch.empty(pairs, dtype=torch.int64, device=device),
        place=torch.empty(pairs, dtype=torch.int32, device=device),
        schedule=torch.empty(experts + pairs // TILE, 4, dtype=torch.int32, device=device),
        first_tile=torch.empty(experts + 1, dtype=torch.int32, device=device),
    )
    found = torch.empty(blocks, bins, dtype=torch.int32, device=device)
    count_pairs[(blocks,)](index, found, pairs, EXPERTS=bins, BLOCK=_BLOCK)
    scan_blocks[(experts,)](found, rows.counts, blocks, EXPERTS=bins, BLOCKS=512)
    schedule_tiles[(experts,)](
        rows.counts, rows.ends, rows.schedule, rows.first_tile, experts, EXPERTS=bins, TILE=TILE, TAIL=TAIL
    )
    place_pairs[(blocks,)](
        index, found, rows.counts, rows.ends, rows.order, rows.place, pairs, EXPERTS=bins, BLOCK=_BLOCK
    )
    return rows


def _site(tile_sums: torch.Tensor, first_tile: torch.Tensor) -> SiteSums:
    experts, width = len(first_tile) - 1, tile_sums.shape[2]
    site = torch.empty(3, experts, width, device=tile_sums.device)
    add_tiles[(triton.cdiv(width, 128), experts)](tile_sums, first_tile, site, width, experts, COLUMNS=128)
    return SiteSums(*site)


def _coactivation(index: torch.Tensor, experts: int) -> torch.Tensor:
    """Ones and zeros are exact in bfloat16 and their sums in float32, up to 2^24 tokens."""
    chosen = torch.zeros(len(index), experts, dtype=torch.bfloat16, device=index.device).scatter_(1, index, 1.0)
    return torch.mm(chosen.T, chosen, out_dtype=torch.float32).long()
