"""One damage, and the small changes that damages are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.verification.damage import (
    EXPERT,
    LAYER,
    MOE,
    Tensors,
    edit_config,
    edit_tensors,
    flip,
    swap,
)

ROUTER = MOE.format(0) + "gate"
BIAS = MOE.format(1) + "e_score_correction_bias"
W1, W2, W3 = (EXPERT.format(1, 3, part) for part in ("w1", "w2", "w3"))
Q = LAYER.format(0) + "self_attn.q_proj."


@dataclass(frozen=True)
class Damage:
    """where: the tensor, file or key that must be named; one of several with `|` between them. alone: whether it shows
    in the artifact itself; the others need the source to compare with."""

    name: str
    variant: str
    do: Callable[[Path], object]
    where: str
    alone: bool = True

    def is_named(self, where: str) -> bool:
        return any(name in where for name in self.where.split("|"))


def tensors(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, lambda found: (change(found), None)[1])


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda found: (change(found), None)[1])


def put(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return tensors(lambda t: t.__setitem__(name, value))


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """One tensor, made anew of what it was."""
    return tensors(lambda t: t.__setitem__(name, change(t[name])))


def exchanged(one: str, other: str) -> Callable[[Path], None]:
    """Every tensor whose name begins with `one`, with that of `other`."""
    return tensors(lambda t: swap(t, one, other))


def drop(*names: str) -> Callable[[Path], None]:
    return tensors(lambda t: [t.pop(name) for name in names])


def scaled(name: str, factor: float) -> Callable[[Path], None]:
    return changed(name, lambda x: (x.float() * factor).to(x.dtype))


def element(name: str, index: tuple[int, ...], value: float) -> Callable[[Path], None]:
    return tensors(lambda t: t[name].__setitem__(index, value))


def bit(name: str, index: tuple[int, ...], bit: int) -> Callable[[Path], None]:
    return tensors(lambda t: flip(t[name], index, bit))


def quantized(name: str) -> Callable[[Path], None]:
    """To FP8, as a tool does that has no ignore list."""

    def change(t: Tensors) -> None:
        weight = t[f"{name}.weight"].float()
        scale = weight.abs().amax(1, keepdim=True) / 448
        t[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        t[f"{name}.weight_scale"] = scale.bfloat16()

    return tensors(change)


def ignore(change: Callable[[list[str]], list[str]], key: str = "ignore") -> Callable[[Path], None]:
    def edit(found: dict[str, Any]) -> None:
        found["quantization_config"][key] = change(found["quantization_config"][key])

    return config(edit)
