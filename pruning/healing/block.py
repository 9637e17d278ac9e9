"""A layer's experts, run for all batches while what they read or give is watched."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sixfold.runner.device_transfer import transfer
from sixfold.runner.experts import experts_run_by, inner_products, outer_products
from sixfold.runner.hidden_states import HiddenStates
from sixfold.runner.layer_runner import LayerRunner

_ADDED = 0.02
"""By how much the share of the experts' output that reaches the layer's may be off from one: rounding in BF16, where
what it is added to is far larger."""

Take = Callable[[slice, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Gets, of the tokens in the slice: inputs [N, hidden], index and gates [N, top-k], outputs [N, hidden]."""


class Watch:
    """Runs the experts, and hands on what passes. module: whose experts they are, None until they ran. seen: tokens."""

    def __init__(self, take: Take | None = None) -> None:
        self.module: Any = None
        self.seen = 0
        self._take = take

    def __call__(self, module: Any, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        self.module = module
        output = routed_outputs(module, hidden, index, gates)
        place = slice(self.seen, self.seen + len(hidden))
        if self._take is not None:
            self._take(place, hidden, index, gates, output)
        self.seen = place.stop
        return output


def run_layer(
    runner: LayerRunner,
    layer: int,
    batches: Sequence[torch.Tensor],
    hidden: HiddenStates,
    watch: Watch,
    advance: Callable[[int], None],
    *,
    keep: bool,
) -> None:
    """Every batch through a layer whose weights are in place. keep: whether what it gives is written."""
    with experts_run_by(runner.model, watch), transfer(hidden, range(len(batches)), runner.device) as moving:
        for number, values in moving:
            given = runner.run(layer, batches[number], values)
            if keep:
                moving.write(number, given)
            advance(batches[number].numel())


def adds_up(runner: LayerRunner, layer: int, batch: torch.Tensor, hidden: torch.Tensor) -> bool:
    """Whether what the experts give is added to what the layer gives as it is: neither scaled nor normed before, nor
    to several streams.

    Weights are in place. Runs one batch with its experts and without; hidden: what the layer reads, from any device.
    """
    gave: list[torch.Tensor] = []

    def watched(module: Any, rows: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        gave.append(routed_outputs(module, rows, index, gates))
        return gave[-1]

    def silent(module: Any, rows: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(rows)

    runs = []
    for experts in (watched, silent):
        with experts_run_by(runner.model, experts):
            runs.append(runner.run(layer, batch, hidden.to(runner.device)).double().flatten(0, -2))
    out, difference = torch.cat(gave).double(), runs[0] - runs[1]
    if out.shape != difference.shape:
        return False  # layers hand on several streams, of which each gets a share of its own
    share = float((difference * out).sum() / out.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
    return abs(share - 1) < _ADDED


def routed_outputs(module: Any, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """[tokens, hidden]: each token through its top-k experts; but for BF16 on a GPU, one expert after the other."""
    top_k = index.shape[1]
    pairs = index.reshape(-1).sort(stable=True).indices
    counts = torch.bincount(index.reshape(-1), minlength=module.num_experts).cpu()
    weights = gates.reshape(-1)
    if hidden.is_cuda and hidden.dtype == torch.bfloat16:  # what grouped products are for
        out = outer_products(module, inner_products(module, hidden[pairs // top_k], counts), counts)
        by_pair = torch.empty_like(out)
        by_pair[pairs] = out * weights[pairs][:, None].to(out.dtype)
        return by_pair.view(len(hidden), top_k, -1).sum(1).to(hidden.dtype)
    total = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for expert, own in enumerate(pairs.split(counts.tolist())):
        if len(own):
            rows = inner_products(module, hidden.index_select(0, own // top_k), expert)
            total.index_add_(0, own // top_k, (outer_products(module, rows, expert) * weights[own][:, None]).float())
    return total.to(hidden.dtype)
