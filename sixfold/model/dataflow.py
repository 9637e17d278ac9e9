"""Which weights read which activation, found by running transformers' own forward on the meta device.

The model is built without memory and run on four token ids. Every tensor carries the *origin* of its values: views,
reshapes and casts keep it, anything else starts a new one. A matrix product between an activation and a parameter
makes that parameter a reader of the activation's origin; two parameters that read the same origin share an input site.
A norm's output is an origin under the norm's name, and anything that touches it other than a parameter's matrix product
(a residual addition, a gate) means that the norm cannot be rescaled exactly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

EXPERTS_FUNCTION = "sixfold_trace"

# Operations that keep the values of their first tensor argument, element for element, in the channel dimension.
_SAME_VALUES = {
    "aten." + name
    for name in (
        "view _unsafe_view reshape _reshape_alias t transpose permute _to_copy to clone detach contiguous expand"
        " squeeze unsqueeze alias lift_fresh native_dropout"
    ).split()
}
_PRODUCTS = {"aten.mm", "aten.addmm", "aten.bmm", "aten.linear", "aten.matmul", "aten._grouped_mm"}


@dataclass(frozen=True)
class Dataflow:
    """Parameter and module names are transformers' own.

    origin_of: parameter (or experts module) -> an opaque id of the activation that it reads.
    norm_of: the same keys -> the norm module whose output that is.
    norm_readers: norm module -> everything that reads its output as a matrix product.
    inexact: norm modules whose output also goes elsewhere.
    routers: parameters between what experts read and which experts are chosen with what weight.
    """

    origin_of: dict[str, int] = field(default_factory=dict)
    norm_of: dict[str, str] = field(default_factory=dict)
    norm_readers: dict[str, list[str]] = field(default_factory=dict)
    inexact: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)


class _WithoutData(TorchDispatchMode):
    """There is no data to ask. Forwards ask whether a mask is trivial or a batch unpacked: yes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _asks(func):
            return _answer(args[0])
        return func(*args, **(kwargs or {}))


def without_data() -> TorchDispatchMode:
    """While open, a model on the meta device gets an answer where its forward asks for a value."""
    return _WithoutData()


def _asks(func: Any) -> bool:
    return str(func).rsplit(".", 1)[0] == "aten._local_scalar_dense"


def _answer(tensor: torch.Tensor) -> Any:
    return True if tensor.dtype is torch.bool else 1


class _Tracer(TorchDispatchMode):
    def __init__(self, parameters: dict[int, str]) -> None:
        super().__init__()
        self.flow = Dataflow()
        self.origins: dict[int, int] = {}
        self.parameters = dict(parameters)
        self.norms: dict[int, str] = {}
        self.parents: dict[int, tuple[list[int], list[str]]] = {}  # origin -> origins and parameters it is made of
        self.inside_norm = 0
        self.alive: list[Any] = []  # ids are only unique among living objects
        self.fresh = count()

    def tag(self, tensor: torch.Tensor, origin: int) -> None:
        self.alive.append(tensor)
        self.origins[id(tensor)] = origin

    def origin(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self.origins:
            self.tag(tensor, next(self.fresh))
        return self.origins[id(tensor)]

    def read(self, reader: str, activation: torch.Tensor) -> None:
        origin = self.origin(activation)
        self.flow.origin_of.setdefault(reader, origin)
        norm = self.norms.get(origin)
        if norm is not None:
            self.flow.norm_of.setdefault(reader, norm)
            readers = self.flow.norm_readers.setdefault(norm, [])
            if reader not in readers:
                readers.append(reader)

    def route(self, hidden: torch.Tensor, chosen: list[torch.Tensor]) -> None:
        """Collect the parameters on the way from `hidden`, or from a norm of the router's own, to what was chosen."""
        waiting, seen = [self.origin(tensor) for tensor in chosen], {self.origin(hidden)}
        while waiting:
            origin = waiting.pop()
            if origin not in seen and origin not in self.norms:
                seen.add(origin)
                origins, parameters = self.parents.get(origin, ([], []))
                waiting += origins
                self.flow.routers.update(parameters)

    def leaks(self, tensor: torch.Tensor) -> None:
        norm = self.norms.get(self.origins.get(id(tensor), -1))
        if norm is not None:
            self.flow.inexact.add(norm)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func).rsplit(".", 1)[0]
        if _asks(func):
            return _answer(args[0])
        out = func(*args, **(kwargs or {}))
        tensors = [a for a in _flatten((args, kwargs or {})) if isinstance(a, torch.Tensor)]
        if name in _SAME_VALUES and tensors:
            for result in _flatten(out):
                if isinstance(result, torch.Tensor):
                    self.tag(result, self.origin(tensors[0]))
                    if id(tensors[0]) in self.parameters:
                        self.parameters[id(result)] = self.parameters[id(tensors[0])]
            return out
        weights = [t for t in tensors if id(t) in self.parameters]
        activations = [t for t in tensors if id(t) not in self.parameters]
        if name in _PRODUCTS and weights:
            matrix = next((t for t in weights if t.dim() >= 2), weights[0])
            for activation in activations:
                self.read(self.parameters[id(matrix)], activation)
        elif not self.inside_norm and _touches_values(name):
            for tensor in activations:
                self.leaks(tensor)
        made_of = [self.origin(t) for t in activations], [self.parameters[id(t)] for t in weights]
        for result in _flatten(out):
            if isinstance(result, torch.Tensor):
                origin = next(self.fresh)
                self.tag(result, origin)
                self.parents[origin] = made_of
        return out


def _touches_values(name: str) -> bool:
    """Factories like zeros_like read a tensor's shape and not its values."""
    return not name.endswith(("_like", "new_zeros", "new_empty", "new_ones", "new_full", "empty", "sym_size"))


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for item in value:
        yield from _flatten(item)


def is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(weight, torch.Tensor) and weight.dim() == 1


def trace(model: nn.Module) -> Dataflow:
    """Run `model` (a causal language model on the meta device) once and report who reads what.

    Raises whatever the model raises where its forward cannot run without data (families that route outside of
    transformers' experts interface); the caller decides what that means.
    """
    parameters = {id(p): name for name, p in model.named_parameters()}
    tracer = _Tracer(parameters)
    tracer.alive.extend(model.parameters())
    with _hooks(model, tracer), torch.no_grad(), tracer:
        ids = torch.zeros((1, 4), dtype=torch.long, device="meta")
        model(input_ids=ids, use_cache=False)
    return tracer.flow


@contextmanager
def _hooks(model: nn.Module, tracer: _Tracer) -> Iterator[None]:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    names = {id(module): name for name, module in model.named_modules()}

    def enter_norm(module: nn.Module, args: Any) -> None:
        for tensor in args:
            if isinstance(tensor, torch.Tensor):
                tracer.leaks(tensor)
        tracer.inside_norm += 1

    def leave_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: torch.Tensor) -> None:
            tracer.inside_norm -= 1
            origin = next(tracer.fresh)
            tracer.norms[origin] = name
            tracer.tag(out, origin)

        return hook

    def experts(module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        tracer.read(names[id(module)], hidden)
        tracer.route(hidden, [index, weights])
        return torch.zeros_like(hidden)

    handles = []
    for name, module in model.named_modules():
        if is_norm(module):
            handles.append(module.register_forward_pre_hook(enter_norm))
            handles.append(module.register_forward_hook(leave_norm(name)))
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FUNCTION, experts)
    before = getattr(model.config, "_experts_implementation", None)
    model.set_experts_implementation(EXPERTS_FUNCTION)  # type: ignore[operator]  # nn.Module hides PreTrainedModel's methods
    try:
        yield
    finally:
        model.set_experts_implementation(before)  # type: ignore[operator]  # as above
        for handle in handles:
            handle.remove()


def is_one_plus(norm: nn.Module) -> bool | None:
    """Whether the norm multiplies by 1 + weight: with a weight of zero, such a norm's output is not zero. Its channels
    differ, as of equal ones a norm that subtracts the mean (Nemotron's) leaves nothing.

    None where it takes something else than channels, and cannot be asked.
    """
    probe = type(norm).__new__(type(norm))
    probe.__dict__.update(norm.__dict__)
    (size,) = norm.state_dict()["weight"].shape
    probe._parameters = {k: nn.Parameter(torch.zeros(size)) for k in norm._parameters}
    parameters = signature(probe.forward).parameters
    # Gated norms take the gate as a second tensor, and some need one though it has a default.
    given = {name for name, p in parameters.items() if p.default is p.empty or name == "gate"}
    try:
        with torch.no_grad():
            channels = torch.linspace(-1, 1, size).unsqueeze(0)
            return bool(probe(*[channels for name in parameters if name in given]).abs().sum() > 0)
    except Exception:  # a third party's forward
        return None
