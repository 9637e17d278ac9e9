"""What the model's own forward passes to each of its decoder layers besides the hidden states.

Masks, position embeddings and whatever else a family hands to its layers come from transformers' forward itself: it is
run with every layer replaced by a recorder, which notes how it was called and returns the hidden states unchanged. What
a layer returns beside them (the tokens that a sparse attention chose, a router's state) is a mark then, which shows in
the next layer's arguments where it goes.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sixfold.errors import SixfoldError

_REMEDY = "choose variants that need no calibration"


RETURNED = (0, 1, 2, 3)
"""How many things a layer may return as a tuple, 0 for the hidden states alone."""


@contextmanager
def located(device: torch.device) -> Iterator[None]:
    """While open, models say that they are on `device`: transformers asks their first parameter, which may be a tower's
    that has no memory, and moves hidden states there (Idefics3)."""
    from transformers import PreTrainedModel

    PreTrainedModel.device = property(lambda _: device)  # hides the one that it inherits
    try:
        yield
    finally:
        del PreTrainedModel.device


@dataclass(frozen=True)
class HandedOn:
    """In a recorded argument: what the layer before returned at this place of its tuple, behind the hidden states."""

    place: int


@dataclass(frozen=True)
class Handed:
    """What a layer leaves for those behind it. places: of the tuple that it returned, those that the next one takes.
    state: what all layers until then have put into mappings that the forward hands to each (keys and values that later
    layers share), by argument. Tensors on the host."""

    places: Mapping[int, Any] = field(default_factory=dict)
    state: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One layer's arguments, without the hidden states. as_keyword: the hidden states are passed by their name."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    as_keyword: bool

    @property
    def takes(self) -> tuple[int, ...]:
        """Places of the layer before's tuple that it reads."""
        return tuple(value.place for value in (*self.args, *self.kwargs.values()) if isinstance(value, HandedOn))

    @property
    def states(self) -> tuple[str, ...]:
        """Arguments that are an empty mapping, for layers to leave something in."""
        return tuple(key for key, value in self.kwargs.items() if isinstance(value, MutableMapping) and not value)

    def __call__(
        self, layer: nn.Module, hidden: torch.Tensor, handed: Handed, following: "Call | None" = None
    ) -> tuple[torch.Tensor, Handed]:
        """The layer's hidden states, and what it leaves. handed: what the one before left. following: the next call."""
        args = [_given(value, handed, hidden.device) for value in self.args]
        kwargs = {key: _given(value, handed, hidden.device) for key, value in self.kwargs.items()}
        states = {key: type(self.kwargs[key])(_moved(handed.state.get(key, {}), hidden.device)) for key in self.states}
        kwargs |= states
        out = layer(**kwargs, hidden_states=hidden) if self.as_keyword else layer(hidden, *args, **kwargs)
        result, beside = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
        places = {place: _moved(beside[place - 1], "cpu") for place in (following.takes if following else ())}
        known = {key: handed.state.get(key, {}) for key in states}
        left = {
            key: {**known[key], **{k: _moved(v, "cpu") for k, v in state.items() if k not in known[key]}}
            for key, state in states.items()
        }
        return result, Handed(places, left)


def _given(value: Any, handed: Handed, device: torch.device) -> Any:
    if isinstance(value, HandedOn):
        return _moved(handed.places[value.place], device)
    return dict(value) if isinstance(value, dict) else value


def _moved(value: Any, device: "torch.device | str") -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return tuple(_moved(item, device) for item in value) if isinstance(value, (tuple, list)) else value


@dataclass(frozen=True)
class Calls:
    """hidden: what the first layer reads. layers: one call per layer, in order. output: what the model returned.
    length: of RETURNED, what the model takes of its layers."""

    hidden: torch.Tensor
    layers: tuple[Call, ...]
    output: Any
    length: int


def record_calls(
    model: Any,
    layers: Sequence[nn.Module],
    ids: torch.Tensor,
    last: torch.Tensor | None = None,
    lengths: Sequence[int] = RETURNED,
) -> Calls:
    """Run the model's forward on `ids` (int64 [samples, length]) with its layers standing aside.

    last: what the last layer gives, where the end of the forward is wanted. lengths: to be tried in turn. What is
    outside of the layers must have its weights. Raises SixfoldError where the model computes something between its
    layers.
    """
    for length in lengths:  # which the model's forward takes for granted
        found = _recorded(model, layers, ids, last, length)
        if found is not None:
            return found
    raise SixfoldError(
        f"{type(model).__name__} computes something between its decoder layers, so they cannot be run one at a time",
        _REMEDY,
    )


def _recorded(
    model: Any, layers: Sequence[nn.Module], ids: torch.Tensor, last: torch.Tensor | None, length: int
) -> Calls | None:
    """length: of the tuple that layers return, 0 for the hidden states alone; None where the forward wants another."""
    calls: list[Call] = []
    hiddens: list[torch.Tensor] = []

    def aside(*args: Any, **kwargs: Any) -> Any:
        as_keyword = "hidden_states" in kwargs
        hidden = kwargs.pop("hidden_states") if as_keyword else args[0]
        calls.append(Call(() if as_keyword else tuple(args[1:]), kwargs, as_keyword))
        hiddens.append(hidden)
        given = hidden if last is None or len(calls) < len(layers) else last
        return (given, *map(HandedOn, range(1, length))) if length else given

    with _recording(layers, aside), located(ids.device):
        try:
            output = model(input_ids=ids, use_cache=False)
        except (TypeError, IndexError, AttributeError, ValueError):  # a tuple where it expects a tensor, or otherwise
            if not hiddens:
                raise
            return None
    if len(calls) != len(layers) or any(hidden is not hiddens[0] for hidden in hiddens):
        return None
    return Calls(hiddens[0], tuple(calls), output, length)


@contextmanager
def _recording(layers: Sequence[nn.Module], aside: Any) -> Iterator[None]:
    """The modules stay (forwards look at their attributes); only what calling them does is replaced."""
    for layer in layers:
        layer.forward = aside
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def same(one: Any, other: Any) -> bool:
    """Whether two recorded arguments are equal, tensors element by element."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Call):
        return same(one.args, other.args) and same(one.kwargs, other.kwargs)
    if isinstance(one, (bool, int, float, str)):
        return bool(one == other)
    return type(one) is type(other)
