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

from calibration.grouped_gemm import grouped_product, grouped_swiglu
from calibration.triton_kernels import TAIL, TILE, combine, expert_totals, schedule_tiles, site_statistics

_ROWS, _COLUMNS = 32, 128


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
    """Whether `routed_experts` takes these tensors: BF16 on a Hopper GPU, contiguous, and widths that TMA can address."""
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
    hidden, weights = hidden.contiguous(), weights.contiguous()
    # Keys of 16 bits: a quarter of the radix passes that int64 would take.
    expert_of, order = index.reshape(-1).to(torch.int16).sort(stable=True)
    ends = torch.searchsorted(expert_of, torch.arange(experts, dtype=torch.int16, device=device), right=True)

    schedule = torch.empty(experts + pairs // TILE, 4, dtype=torch.int32, device=device)
    total = torch.empty(1, dtype=torch.int32, device=device)
    schedule_tiles[(experts,)](
        ends, schedule, total, experts, EXPERTS=triton.next_power_of_2(experts), TILE=TILE, TAIL=TAIL, num_warps=1
    )

    rows = torch.empty(pairs, width, dtype=torch.bfloat16, device=device)
    place = torch.empty(pairs, dtype=torch.int32, device=device)
    up = _site(hidden, order, ends, experts, top_k, gathered=rows, place=place)
    inner = torch.empty(pairs, intermediate, dtype=torch.bfloat16, device=device)
    grouped_swiglu(rows, gate_up, schedule, total, out=inner)
    down_site = _site(inner, order, ends, experts, top_k)
    grouped_product(inner, down, schedule, total, out=rows)

    output = torch.empty_like(hidden)
    norms, peaks = torch.empty(2, pairs, dtype=torch.float32, device=device)
    combine[(tokens,)](
        rows, place, weights, output, norms, peaks, width, TOP_K=top_k, COLUMNS=triton.next_power_of_2(width)
    )
    sums = torch.empty(4, experts, dtype=torch.float32, device=device)
    maxima = torch.empty(2, experts, dtype=torch.float32, device=device)
    expert_totals[(experts,)](order, ends, weights, norms, peaks, sums, maxima, experts, ROWS=256)
    return output, ExpertPass(ends.diff(prepend=ends.new_zeros(1)), up, down_site, *sums, *maxima, order, inner)


def _site(
    source: torch.Tensor,
    order: torch.Tensor,
    ends: torch.Tensor,
    experts: int,
    top_k: int,
    gathered: torch.Tensor | None = None,
    place: torch.Tensor | None = None,
) -> SiteSums:
    width = source.shape[1]
    sums = SiteSums(*torch.empty(3, experts, width, dtype=torch.float32, device=source.device))
    site_statistics[(triton.cdiv(width, _COLUMNS), experts)](
        source,
        order,
        ends,
        gathered,
        place,
        sums.sum_sq,
        sums.sum_abs,
        sums.abs_max,
        width,
        top_k,
        GATHER=gathered is not None,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return sums
