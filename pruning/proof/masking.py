"""The original model with some experts masked: what a pruned checkpoint must compute, apart from rounding.

A router's logits of masked experts become -inf, so that softmax and sigmoid give them nothing, and so does a correction
bias, which is added afterwards: no masked expert is chosen, and gates are normalized over those that are left. The
weights stay; what is patched is the product of hidden states with the router's matrix, wherever the model's own code
makes it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pruning.anatomy import Anatomy


@contextmanager
def masked(model: nn.Module, anatomy: Anatomy, kept: Mapping[int, Collection[int]]) -> Iterator[None]:
    """While open, the layers that `kept` names choose among those experts alone.

    model: transformers' own, in float32 (its routers must multiply with their parameters, not with casts of them), with
    weights in the layers named. Only one forward may run at a time.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    routers: dict[int, torch.Tensor] = {}
    biases: list[tuple[torch.Tensor, torch.Tensor]] = []
    here = {t.parameter: t for t in anatomy.tensors.values() if t.expert is None and t.layer in kept}
    for found in here.values():
        tensor = tensors[found.parameter]
        gone = torch.tensor(sorted(set(range(anatomy.experts)) - set(kept[found.layer])), device=tensor.device)
        if tensor.dim() == 2 and found.axis == 0:
            routers[id(tensor)] = gone
        elif tensor.squeeze().dim() == 1 and "bias" in found.parameter.rsplit(".", 1)[-1]:
            biases.append((tensor, gone))
    before = [tensor.detach().clone() for tensor, _ in biases]
    with torch.no_grad():
        for tensor, gone in biases:
            tensor.view(-1)[gone] = -torch.inf
    try:
        with _Masked(routers):
            yield
    finally:
        with torch.no_grad():
            for (tensor, _), values in zip(biases, before, strict=True):
                tensor.copy_(values)


class _Masked(TorchFunctionMode):
    """routers: id of the router's matrix -> the experts to mask."""

    def __init__(self, routers: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self.routers = routers

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is functional.linear:
            matrix = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            if id(matrix) in self.routers:
                return out.index_fill(-1, self.routers[id(matrix)], -torch.inf)
        return out
