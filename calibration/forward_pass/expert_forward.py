"""What a layer's experts compute for the tokens that are routed to them, recorded on the way.

On the CPU one expert after the other: its rows stay in the cache from the gather to the last sum, and nothing of the
size [tokens x top-k] is made. On Hopper GPUs in kernels that sum on the way, for the experts that most models have
(calibration.kernels.triton_experts); otherwise all experts in grouped products, over rows that are sorted by expert.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

from calibration.forward_pass.observation import ExpertRecord
from sixfold.runner.experts import inner_products, outer_products

_ROWS = 32
"""An expert's rows are padded to a multiple: oneDNN prepares a product for every number of rows that it has not seen
before, which takes a large part of the time of a small product."""


def routed_forward(
    module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, record: ExpertRecord
) -> torch.Tensor:
    """The experts' output [tokens, hidden]: each token through its top-k experts only.

    module: transformers' experts module. hidden [tokens, hidden]; index int64 [tokens, top-k]; weights [tokens, top-k]:
    the gate values actually applied.
    """
    if hidden.is_cuda and record.counts_all and _is_plain(module) and (fused := _fused_kernels()):
        if fused.fits(hidden, module.gate_up_proj, module.down_proj):
            output, found = fused.routed_experts(hidden, index, weights, module.gate_up_proj, module.down_proj)
            record.measured(hidden, index, found)
            return output
    pairs = index.reshape(-1).sort(stable=True).indices  # by expert, and by token within one
    counts = torch.bincount(index.reshape(-1), minlength=module.num_experts).cpu()
    record.choices(index)
    run = _grouped if hidden.is_cuda else _one_by_one
    return run(module, hidden, pairs, counts, weights.reshape(-1), index.shape[1], record)


@cache
def _fused_kernels() -> Any:
    """calibration.kernels.triton_experts; None without the Triton that it needs."""
    try:
        from calibration.kernels import triton_experts
    except ImportError:
        return None
    return triton_experts


def _is_plain(module: Any) -> bool:
    """Whether the experts are SwiGLU without biases, each weight as [out, in]: what the fused kernels compute."""
    from transformers.activations import SiLUActivation
    from transformers.integrations.moe import _default_apply_gate

    return (
        module.has_gate
        and not module.has_bias
        and not module.is_transposed
        and isinstance(module.act_fn, (nn.SiLU, SiLUActivation))
        and type(module)._apply_gate is _default_apply_gate
    )


def _one_by_one(
    module: Any,
    hidden: torch.Tensor,
    pairs: torch.Tensor,
    counts: torch.Tensor,
    gates: torch.Tensor,
    top_k: int,
    record: ExpertRecord,
) -> torch.Tensor:
    total = torch.zeros(hidden.shape, dtype=torch.float32)
    for expert, own in enumerate(pairs.split(counts.tolist())):
        number = len(own)
        if number:
            tokens = own // top_k
            filled = torch.cat([tokens, tokens.new_zeros(-number % _ROWS)])
            rows = hidden.index_select(0, filled)
            inner = inner_products(module, rows, expert)
            out = outer_products(module, inner, expert)[:number]
            gate = gates[own]
            record.expert(expert, tokens, rows[:number], inner[:number], out, gate)
            total.index_add_(0, tokens, (out * gate[:, None]).float())
    return total.to(hidden.dtype)


def _grouped(
    module: Any,
    hidden: torch.Tensor,
    pairs: torch.Tensor,
    counts: torch.Tensor,
    gates: torch.Tensor,
    top_k: int,
    record: ExpertRecord,
) -> torch.Tensor:
    tokens = pairs // top_k
    rows = hidden[tokens]
    inner = inner_products(module, rows, counts)
    out = outer_products(module, inner, counts)
    record.experts(counts, tokens, rows, inner, out, gates[pairs])
    out = out * gates[pairs][:, None]
    by_pair = torch.empty_like(out)
    by_pair[pairs] = out
    return by_pair.view(len(hidden), top_k, -1).sum(1).to(hidden.dtype)
