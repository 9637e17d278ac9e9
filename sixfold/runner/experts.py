"""The experts of a layer as transformers' shared interface runs them: in place of its products, and product by product.

One function serves every family that has the interface, with the top-k indices and gates that the family's own router
computed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

EXPERTS_FUNCTION = "sixfold_experts"


@contextmanager
def experts_run_by(model: Any, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """While open, `forward(module, hidden_states, top_k_index, top_k_weights)` computes every layer's experts."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    before = getattr(model.config, "_experts_implementation", None)
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FUNCTION, forward)
    model.set_experts_implementation(EXPERTS_FUNCTION)
    try:
        yield
    finally:
        model.set_experts_implementation(before)
        ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FUNCTION, _closed)  # or a layer's sums would live on


def _closed(*given: Any) -> torch.Tensor:
    raise RuntimeError("experts are replaced only while `experts_run_by` is open")


def inner_products(module: Any, rows: torch.Tensor, whose: torch.Tensor | int) -> torch.Tensor:
    """What the down projections read, [N, intermediate].

    rows [N, hidden]. whose: the one expert that all rows are of, or int64 [experts] on the CPU, how many are of each,
    in order.
    """
    return activation(module, first_products(module, rows, whose))


def first_products(module: Any, rows: torch.Tensor, whose: torch.Tensor | int) -> torch.Tensor:
    """What the activation reads, of gate and up projections or of up projections alone; for the arguments see
    `inner_products`."""
    return _product(module, first_name(module), rows, whose)


def activation(module: Any, products: torch.Tensor) -> torch.Tensor:
    """[N, intermediate], of `first_products`."""
    inner: torch.Tensor = module._apply_gate(products) if module.has_gate else module.act_fn(products)
    return inner


def first_name(module: Any) -> str:
    """Of the parameter that the experts' inputs are multiplied by."""
    return "gate_up_proj" if module.has_gate else "up_proj"


def first_projection(module: Any) -> torch.Tensor:
    """[experts, out, in], or [experts, in, out] where the module is transposed."""
    found: torch.Tensor = getattr(module, first_name(module))
    return found


def outer_products(module: Any, inner: torch.Tensor, whose: torch.Tensor | int) -> torch.Tensor:
    """The experts' outputs before the gate, [N, hidden]; for the arguments see `inner_products`."""
    return _product(module, "down_proj", inner, whose)


def _product(module: Any, name: str, rows: torch.Tensor, whose: torch.Tensor | int) -> torch.Tensor:
    weight = getattr(module, name)  # [experts, out, in]
    weight = weight.mT if module.is_transposed else weight
    bias = getattr(module, name + "_bias") if module.has_bias else None
    if isinstance(whose, int):
        return functional.linear(rows, weight[whose], None if bias is None else bias[whose])
    counts = whose.to(rows.device)
    out = functional.grouped_mm(rows, weight.mT, offs=counts.cumsum(0).int())
    if bias is not None:
        experts = torch.arange(len(counts), device=rows.device)
        out += bias[torch.repeat_interleave(experts, counts, output_size=len(rows))]
    return out
