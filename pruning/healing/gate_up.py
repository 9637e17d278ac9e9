"""The gate and up projections of one expert, refitted to what is missing (`up` alone where an expert has no gate).

    h = V x,  a = f(h)            V [parts * C, hidden]: the projections, x what the expert reads, f the activation
    J D = g W (f'(h) * D x)       by how much the expert gives more for a change D of V, to first order: in a change of
                                  the up projection alone exactly
    D = argmin sum |r - J D|^2 + d m sum_j c_j |D_j|^2

One damped Gauss-Newton step: regression of what is missing, r, on D. No small system has its solution, since a row of D
is seen through all of W, each row by other tokens; it is approached by STEPS steps of conjugate gradients (Hestenes and
Stiefel 1952), of which each takes products with x and W and no others. They are preconditioned by a Kronecker product,
and the penalty has its form:

    sum_t q_j^2 x x^T  ~  c_j X       q = g f'(h) |w|, |w| the norms of W's columns; c = sum_t q^2
                                      X = sum_t |q|^2 x x^T / sum_t |q|^2, m: mean of its diagonal
    P = diag(c) (x) (X + d m I)

as if the inputs had noise of d times their own power. Few steps are a damping, too. d is that of the down projections.
Products are in the model's dtype (X in float32), sums over the tokens and all that follows of them in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pruning.healing.seen import ROWS, Routed, Seen
from sixfold.runner.experts import activation, first_products, first_projection

STEPS = 3
TOKENS = 32768
"""Of an expert that the step is found by, evenly spaced among its own: what it costs is in these."""

_LEAST = 0.01
"""Of the mean of c that a row counts at least: what hardly acts on these texts may act on others."""


@dataclass(frozen=True)
class _Some:
    """Tokens of an expert: inputs [N, hidden] and slopes g f'(h) [N, parts, C], in the model's dtype."""

    tokens: torch.Tensor
    inputs: torch.Tensor
    slopes: torch.Tensor

    def forward(self, change: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """J D, [N, hidden]; change [parts * C, hidden], down [hidden, C], all in the model's dtype."""
        products = (self.inputs @ change.mT).view_as(self.slopes)
        return (self.slopes * products).sum(1) @ down.mT

    def backward(self, values: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """J^T of [N, hidden]: [parts * C, hidden]."""
        return (self.slopes * (values @ down)[:, None]).flatten(1).mT @ self.inputs


@dataclass(frozen=True)
class _Fit:
    """Of one expert: gradient J^T r [parts * C, hidden], scale c [parts * C, 1] and penalty d m c, float64; inverse
    (X + d m I)^-1, float32."""

    gradient: torch.Tensor
    scale: torch.Tensor
    inverse: torch.Tensor
    penalty: torch.Tensor

    def conditioned(self, values: torch.Tensor) -> torch.Tensor:
        """P^-1 of [parts * C, hidden], near enough."""
        return ((values / self.scale).float() @ self.inverse).double()


def refit_gate_up(module: Any, expert: int, own: Routed, seen: Seen, damping: float, stored: torch.dtype) -> None:
    """Changes the expert's gate and up projections, to values that `stored` holds, and `seen.missing` with them; but
    where more would be missing then, as f is no straight line, they stay."""
    some = _evenly_spaced(own)
    fit = _fit(module, expert, some, seen, damping)
    change = _conjugate_gradients(module, expert, some, seen, fit)
    weight = first_projection(module)[expert]
    weight = weight.mT if module.is_transposed else weight  # [parts * C, hidden], parts side by side or alternating
    before, missing = weight.clone(), _energy(own, seen, weight.device)
    _exchange(module, expert, own, seen, weight, (before.double() + _as_stored(module, change)).to(stored))
    if not _energy(own, seen, weight.device) <= missing:
        _exchange(module, expert, own, seen, weight, before)


def _conjugate_gradients(module: Any, expert: int, own: Routed, seen: Seen, fit: _Fit) -> torch.Tensor:
    """float64 [parts * C, hidden], parts side by side."""
    down = _down(module, expert)
    change, left = torch.zeros_like(fit.gradient), fit.gradient
    towards = fit.conditioned(left)
    slope = (left * towards).sum()
    for step in range(STEPS):
        curved = fit.penalty * towards
        curvature = (towards * curved).sum()
        direction = towards.to(down.dtype)
        for some in _rows(module, expert, own, seen):
            moved = some.forward(direction, down)
            curvature += moved.square().sum(dtype=torch.float64)
            if step + 1 < STEPS:
                curved += some.backward(moved, down)
        length = slope / curvature.clamp(min=torch.finfo(torch.float64).tiny)
        change = change + length * towards
        if step + 1 == STEPS:
            break
        left = left - length * curved
        conditioned = fit.conditioned(left)
        before, slope = slope, (left * conditioned).sum()
        towards = conditioned + slope / before.clamp(min=torch.finfo(torch.float64).tiny) * towards
    return change


def _fit(module: Any, expert: int, own: Routed, seen: Seen, damping: float) -> _Fit:
    down = _down(module, expert)
    hidden, device = seen.inputs.shape[1], down.device
    gradient = torch.zeros(
        first_projection(module)[expert].numel() // hidden, hidden, dtype=torch.float64, device=device
    )
    scale = torch.zeros(len(gradient), dtype=torch.float64, device=device)
    square = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
    norms = down.float().norm(dim=0).to(down.dtype)
    for some in _rows(module, expert, own, seen):
        missing = seen.missing_of(some.tokens, device)
        gradient += some.backward(missing.to(down.dtype), down)
        weights = (some.slopes * norms).square().flatten(1)  # q^2
        scale += weights.sum(0, dtype=torch.float64)
        weighted = some.inputs.float() * weights.sum(1, keepdim=True, dtype=torch.float32).sqrt()
        square += weighted.mT @ weighted  # in float32: rounded sums might have no Cholesky factor
    tiny = torch.finfo(torch.float64).tiny
    square /= scale.sum().clamp(min=tiny)
    scale = scale.clamp(min=(_LEAST * scale.mean()).clamp(min=tiny))[:, None]
    noise = (damping * square.diagonal().mean()).clamp(min=tiny)
    factor = torch.linalg.cholesky(square + noise * torch.eye(hidden, dtype=square.dtype, device=device))
    return _Fit(gradient, scale, torch.cholesky_inverse(factor).float(), noise * scale)


def _evenly_spaced(own: Routed) -> Routed:
    """TOKENS of its tokens, or all where there are no more."""
    count = len(own.tokens)
    if count <= TOKENS:
        return own
    places = torch.arange(TOKENS, device=own.tokens.device) * count // TOKENS
    return Routed(own.tokens[places], own.gates[places], ())


def _rows(module: Any, expert: int, own: Routed, seen: Seen) -> Iterator[_Some]:
    device = module.down_proj.device
    for tokens, gates in zip(own.tokens.split(ROWS), own.gates.split(ROWS), strict=True):
        inputs = seen.inputs_of(tokens, device)
        slopes = _slopes(module, first_products(module, inputs, expert))
        yield _Some(tokens, inputs, slopes * gates.to(device, slopes.dtype)[:, None, None])


def _slopes(module: Any, products: torch.Tensor) -> torch.Tensor:
    """f'(h) [N, parts, C], of h [N, parts * C]: an output depends on its own gate and up products alone."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = products.clone().requires_grad_()  # what inference made has no gradient
        (found,) = torch.autograd.grad(activation(module, leaf).sum(), leaf)
    parts = 2 if module.has_gate else 1
    return found.view(len(found), parts, -1) if _side_by_side(module) else found.view(len(found), -1, parts).mT


def _as_stored(module: Any, change: torch.Tensor) -> torch.Tensor:
    """Rows in the order of the module's, of rows whose parts are side by side."""
    return (
        change if _side_by_side(module) else change.view(2, -1, change.shape[1]).transpose(0, 1).reshape(change.shape)
    )


def _side_by_side(module: Any) -> bool:
    return not module.has_gate or module.is_concatenated


def _exchange(module: Any, expert: int, own: Routed, seen: Seen, weight: torch.Tensor, new: torch.Tensor) -> None:
    """Other values in place of the expert's, and what is missing with them."""
    _give(module, expert, own, seen, -1)
    weight.copy_(new)
    _give(module, expert, own, seen, 1)


def _give(module: Any, expert: int, own: Routed, seen: Seen, sign: int) -> None:
    down = _down(module, expert)
    for tokens, gates in zip(own.tokens.split(ROWS), own.gates.split(ROWS), strict=True):
        products = first_products(module, seen.inputs_of(tokens, down.device), expert)
        inner = activation(module, products).float() * (sign * gates.to(down.device))[:, None]
        seen.give(tokens, inner @ down.float().mT)


def _energy(own: Routed, seen: Seen, device: torch.device) -> float:
    parts = (seen.missing_of(tokens, device) for tokens in own.tokens.split(ROWS))
    return float(sum(part.square().sum(dtype=torch.float64) for part in parts))


def _down(module: Any, expert: int) -> torch.Tensor:
    """[hidden, C]."""
    weight: torch.Tensor = module.down_proj[expert]
    return weight.mT if module.is_transposed else weight
