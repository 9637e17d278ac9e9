"""Inputs of quantized Linears, rounded as engines round them: what a scheme costs beyond its weights.

    FP8, as inputs come     a scale per token (or per 128 channels), max |x| / 448, then E4M3
    FP8, fixed              the artifact's input_scale
    NVFP4                   E4M3 scales per 16 channels under the artifact's global input scale, then E2M1
    ggml Q8_0, Q8_1 blocks  32 channels: max |x| / 127 in F16, then integers (weights of Q8_0, Q5_0, Q4_0, IQ4_NL...)
    ggml Q8_K blocks        256 channels: the largest |x| is -127 exactly, then integers (weights of K-quants, IQ4_XS)

NVFP4 by vllm/compressed-tensors' formula; ggml by quantize_row_q8_0 and quantize_row_q8_K in ggml-quants.c.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sixfold.runner.layer_runner import LayerRunner
from verification.divergence.cache_rounding import CacheRounding, caches_rounded
from verification.divergence.cores import MOST, shares
from verification.divergence.expert_inputs import ExpertInputs, Scaled
from verification.divergence.latent_inputs import LatentAttention, LatentRounding, Rounding, latents_rounded

Rule = Rounding | LatentRounding | CacheRounding

_E4M3, _E2M1 = 448.0, 6.0
_EXPONENT = 0x7F800000
"""These bits of float32."""

_PRODUCTS = (functional.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
"""What is called with inputs and weights: a plain product with experts whose weights are stored transposed."""


@cache
def fp8_dynamic(group: int | None) -> Rounding:
    """group: channels that share a scale, None for the whole token."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        blocks = x if group is None else x.unflatten(-1, (-1, group))
        scale = (blocks.abs().amax(-1, keepdim=True) / _E4M3).clamp(min=1e-12)
        return (_e4m3(blocks / scale) * scale).reshape(x.shape)

    return rounded


def _fp8_under(scale: Any, x: torch.Tensor) -> torch.Tensor:
    return _e4m3(x / scale) * scale


def _fp8_scale(largest: torch.Tensor) -> torch.Tensor:
    return largest.clamp(min=1e-30) / _E4M3


@cache
def fp8_static(scale: float | None) -> Scaled:
    """scale: None for that of the largest of all that is rounded together."""
    return Scaled(_fp8_under, scale, _fp8_scale)


@cache
def nvfp4(global_scale: float | None) -> Scaled:
    """global_scale: as compressed-tensors stores it, 448 * 6 / max |x| of calibration; None for that of the largest of
    all that is rounded together."""
    return Scaled(_nvfp4_under, global_scale, _nvfp4_scale)


def _nvfp4_scale(largest: torch.Tensor) -> torch.Tensor:
    return _E4M3 * _E2M1 / largest.clamp(min=1e-30)


def _nvfp4_under(global_scale: Any, x: torch.Tensor) -> torch.Tensor:
    blocks = x.unflatten(-1, (-1, 16))
    unit = global_scale[..., None] if isinstance(global_scale, torch.Tensor) else global_scale
    scale = _e4m3(blocks.abs().amax(-1, keepdim=True) / _E2M1 * unit) / unit
    quotient = torch.where(scale > 0, blocks / scale, torch.zeros_like(blocks))
    return (_e2m1(quotient) * scale).reshape(x.shape)


def ggml_q8_0(x: torch.Tensor) -> torch.Tensor:
    blocks = x.unflatten(-1, (-1, 32))
    step = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(step > 0, 1 / step, torch.zeros_like(step))
    return _half_away(blocks * inverse).mul_(step.half().float()).reshape(x.shape)


def ggml_q8_k(x: torch.Tensor) -> torch.Tensor:
    blocks = x.unflatten(-1, (-1, 256))
    place = blocks.abs().argmax(-1, keepdim=True)
    largest = blocks.gather(-1, place)
    inverse = torch.where(largest != 0, -127 / largest, torch.zeros_like(largest))
    codes = (blocks * inverse).round_().clamp_(max=127)
    return codes.mul_(torch.where(inverse != 0, 1 / inverse, inverse)).reshape(x.shape)


def _e4m3(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-_E4M3, _E4M3).to(torch.float8_e4m3fn).float()


def _e2m1(x: torch.Tensor) -> torch.Tensor:
    """In steps of a half below 2, of one below 4 and of two above, halves to the even code, as rounding to even has
    it in each of the three."""
    power = (x.view(torch.int32) & _EXPONENT).view(torch.float32)  # of two, at most |x|
    step = power.clamp_(1.0, 4.0).mul_(0.5)
    return (x / step).round_().mul_(step).clamp_(-_E2M1, _E2M1)


def _half_away(x: torch.Tensor) -> torch.Tensor:
    return x.abs().add_(0.5).floor_().copysign_(x)


@dataclass(frozen=True)
class _Rounded:
    """What was rounded last: query, key and value projections read the same. squares: sums of those of what rounding
    moved, and of all, float64 [2] on its device."""

    x: torch.Tensor
    rule: Rounding
    rounded: torch.Tensor
    squares: torch.Tensor


class RoundedInputs(TorchFunctionMode):
    """While open, every product of a layer with a weight that has a rule reads rounded inputs.

    rules: by on-disk tensor name; of a cache, by the name of the k_proj whose keys it holds. Experts must run one at a
    time (`runner.model.set_experts_implementation("eager")`), as their weights are told apart by where they lie in the
    layer's stacked parameter, or ask `of_stack` themselves. `place` must be called when a layer's weights are in place.
    """

    def __init__(self, runner: LayerRunner, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self._runner = runner
        self._rules = rules
        self._parameters: dict[int, tuple[torch.Tensor, dict[int, tuple[str, Rounding]]]] = {}
        self._squares: dict[str, torch.Tensor] = {}
        self._stacks: dict[int, ExpertInputs] = {}
        self._stacks_before: list[ExpertInputs] = []
        self._latents: dict[int, LatentAttention] = {}
        self._of_latents: dict[int, LatentAttention] = {}
        self._caches: dict[int, CacheRounding] = {}
        self._attention = ExitStack()
        self._last: _Rounded | None = None

    @property
    def errors(self) -> Mapping[str, float]:
        """How far the inputs of each product were moved: |x' - x| / |x| over all that it has read, by tensor name."""
        found = {name: squares.tolist() for name, squares in self._squares.items()}
        for stack in (*self._stacks_before, *self._stacks.values()):
            each = stack.squares.tolist()
            found |= {name: each[expert] for expert, (name, _) in stack.rules.items()}
        return {name: (error / total) ** 0.5 if total else 0.0 for name, (error, total) in found.items()}

    def add(self, others: "Sequence[RoundedInputs]") -> None:
        """What others measured of the same layer, which forget it: as many of them as there are shares would hold what
        follows the number of layers."""
        for other in others:
            for name, squares in other._squares.items():
                known = self._squares.get(name)
                self._squares[name] = squares if known is None else known + squares
            for place, stack in other._stacks.items():
                if place in self._stacks:
                    self._stacks[place].squares.add_(stack.squares)
                else:
                    self._stacks[place] = stack
            other._squares, other._stacks = {}, {}

    def _rounded(self, name: str, rule: Rounding, x: torch.Tensor) -> torch.Tensor:
        if self._last is None or self._last.x is not x or self._last.rule is not rule:
            rounded = rule(x)
            moved, whole = (rounded - x).flatten(), x.flatten()
            squares = torch.stack((moved @ moved, whole @ whole)).double()  # not waited for on a GPU
            self._last = _Rounded(x, rule, rounded, squares)
        known = self._squares.get(name)
        self._squares[name] = self._last.squares if known is None else known + self._last.squares
        return self._last.rounded

    def of_stack(self, parameter: torch.Tensor) -> ExpertInputs | None:
        """How the inputs of a stacked parameter's experts are rounded; None for as they are."""
        place = parameter.untyped_storage().data_ptr()
        if place not in self._parameters:
            return None
        if place not in self._stacks:
            squares = torch.zeros(len(parameter), 2, dtype=torch.float64, device=parameter.device)
            self._stacks[place] = ExpertInputs(self._parameters[place][1], squares)
        return self._stacks[place]

    def place(self, layer: int | None) -> None:
        """layer: whose weights have just been given to the model; None for what is outside of the layers."""
        self._stacks_before += self._stacks.values()
        self._stacks = {}
        self._parameters, self._latents, self._of_latents, self._caches, self._last = {}, {}, {}, {}, None
        for source in self._runner.sources_of(layer):
            rules: dict[int, tuple[str, Rounding]] = {}
            parent, _, leaf = source.parameter.rpartition(".")
            for piece in reversed(source.pieces):
                rule, cached = self._rules.get(piece.name), self._rules.get(piece.name.removesuffix(".weight"))
                if isinstance(cached, CacheRounding):
                    self._caches[id(self._runner.model.get_submodule(parent.rpartition(".")[0]))] = cached
                if isinstance(rule, LatentRounding):
                    self._place_latent(parent, rule)
                elif rule is not None and not isinstance(rule, CacheRounding):
                    rules[piece.expert or 0] = piece.name, rule
            if rules:
                parameter = self._runner.model.get_submodule(parent).get_parameter(leaf)
                self._parameters[parameter.untyped_storage().data_ptr()] = parameter, rules

    def _place_latent(self, projection: str, rule: LatentRounding) -> None:
        model = self._runner.model
        owner = LatentAttention(rule, model.get_submodule(projection))
        self._latents[id(model.get_submodule(projection.rpartition(".")[0]))] = owner
        self._of_latents[owner.projection.get_parameter("weight").data_ptr()] = owner

    def __enter__(self) -> Any:
        self._attention.enter_context(latents_rounded(self._runner.model, self._latents))
        self._attention.enter_context(caches_rounded(self._runner.model, self._caches))
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._last = None
        self._attention.close()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS and (self._parameters or self._of_latents):
            x, weight, *others = args
            if weight.data_ptr() in self._of_latents:
                self._of_latents[weight.data_ptr()].latent = x
            found = self._parameters.get(weight.untyped_storage().data_ptr())
            if found is not None:
                parameter, rules = found
                one = parameter[0].numel() * parameter.element_size() if parameter.dim() == 3 else 1
                offset = weight.data_ptr() - parameter.data_ptr()
                rule = rules.get(offset // one if parameter.dim() == 3 else 0)
                if rule is not None:
                    return func(self._rounded(*rule, x), weight, *others, **(kwargs or {}))
        if self._last is not None and _writes(func, kwargs or {}):
            self._last = None
        return func(*args, **(kwargs or {}))


def roundings_of(runner: LayerRunner, rules: Mapping[str, Rule]) -> Sequence[RoundedInputs]:
    """One for each share of a run's batches that may be run beside others; () where there are no rules. What changes
    how attention is computed does so for all threads, and is never run beside another."""
    alone = any(isinstance(rule, LatentRounding | CacheRounding) for rule in rules.values())
    number = 0 if not rules else 1 if alone else shares(MOST)
    return tuple(RoundedInputs(runner, rules) for _ in range(number))


def _writes(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of torch may write into a tensor that it gets, by how torch names such functions."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__")
    in_place = name.startswith("__i") or name == "__setitem__" if special else name.endswith("_")
    return in_place or bool(kwargs.get("inplace")) or kwargs.get("out") is not None
