"""The kept experts' projections of one layer, refitted so that the block gives again what it gave before.

    r = y - sum_e g_e W_e a_e     what is missing: y what the experts are to give for a token, a_e what expert e's down
                                  projection reads in the pruned model, g_e its gate there
    D_e = (sum r g_e a_e^T) (M_e + d m_e I)^-1      M_e = sum g_e^2 a_e a_e^T, m_e: mean of its diagonal
    W_e += D_e,  r -= g_e D_e a_e

Ridge regression of what is missing on one expert's down projection, the others held, expert after expert, SWEEPS times
over all; in the first sweep each expert's gate and up projections follow (gate_up.py), whose step costs more. Each
step is damped by itself, so that many more sweeps would undo the damping. Sums run over the tokens that the pruned
model routes to e.

The damping d is one for the layer, and is chosen by text that a fit has not seen: each kind of calibration text is left
out in turn, and that is found with which fits to the other kinds take most of the squared error on the one left out.
Where none takes any, the layer stays as it is. These are fits of one expert by itself; then all are fitted, and what a
token misses is laid on each of its experts in turn, on several projections, SWEEPS times. So d is TOGETHER times what
was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pruning.healing.gate_up import refit_gate_up
from pruning.healing.seen import ROWS, Routed, Seen, by_expert, norm
from sixfold.runner.experts import first_name, inner_products

SWEEPS = 2
DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TOGETHER = 4.0
JUDGES = 16
"""Experts of a layer, evenly spaced, that the damping is chosen by."""


@dataclass(frozen=True)
class Fit:
    """damping: None where the layer stayed as it was. held_back: squared error on kinds of text left out, relative to
    what it was, over the experts that the damping was chosen by. before, after: norm of what is missing."""

    damping: float | None
    held_back: float
    before: float
    after: float


@dataclass(frozen=True)
class _Moments:
    """Of one expert: square sum g^2 a a^T [kinds, C, C], cross sum r g a^T [kinds, hidden, C]; float64. energy: sum of
    |r|^2 [kinds]."""

    square: torch.Tensor
    cross: torch.Tensor
    energy: torch.Tensor


def refit(module: Any, seen: Seen, stored: Mapping[str, torch.dtype]) -> Fit:
    """Changes the experts' projections, to values that the checkpoint holds, and `seen.missing` with them.

    module: transformers' experts module with its weights. stored: the checkpoint's dtype of those of its parameters
    that may change, the down projections or all. Runs where the weights are.
    """
    before = norm(seen.missing)
    routed = list(by_expert(seen, int(module.num_experts)))
    inner = stored.get(first_name(module))
    with _fast_products(seen.gates.device):
        damping, held_back = _chosen(module, seen, routed)
        if damping is not None:
            for sweep in range(SWEEPS):
                for expert, own in enumerate(routed):
                    if len(own.tokens):
                        _refit_down(module, expert, own, seen, damping, stored["down_proj"])
                        if sweep == 0 and inner is not None:
                            refit_gate_up(module, expert, own, seen, damping, inner)
    return Fit(damping, held_back, before, norm(seen.missing))


@contextmanager
def _fast_products(device: torch.device) -> Iterator[None]:
    """While open, a GPU multiplies float32 in TF32: eleven bits, where what is multiplied comes of eight."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _chosen(module: Any, seen: Seen, routed: Sequence[Routed]) -> tuple[float | None, float]:
    reached = [expert for expert, own in enumerate(routed) if sum(count > 0 for count in own.counts) > 1]
    judges = reached[:: max(1, len(reached) // JUDGES)]
    gains = torch.zeros(len(DAMPINGS), dtype=torch.float64)
    energy = 0.0
    for expert in judges:
        found = _moments(module, expert, routed[expert], seen, by_kind=True)
        energy += float(found.energy.sum())
        gains += _gains(found).cpu()
    best = int(gains.argmin()) if judges else 0
    if not judges or not gains[best] < 0:
        return None, 1.0
    return TOGETHER * DAMPINGS[best], 1 + float(gains[best]) / energy


def _gains(found: _Moments) -> torch.Tensor:
    """float64 [dampings]: by how much fits to all kinds but one change the squared error on that one, summed."""
    square, cross = found.square.sum(0), found.cross.sum(0)
    changes = [torch.zeros((), dtype=torch.float64, device=square.device) for _ in DAMPINGS]
    for own_square, own_cross in zip(found.square, found.cross, strict=True):
        if not own_square.any():
            continue
        for place, damping in enumerate(DAMPINGS):
            change = _solved(square - own_square, cross - own_cross, damping)
            changes[place] += ((change @ own_square) * change).sum() - 2 * (change * own_cross).sum()
    return torch.stack(changes)


def _solved(square: torch.Tensor, cross: torch.Tensor, damping: float) -> torch.Tensor:
    """cross (square + damping * mean diagonal * I)^-1, [hidden, C]."""
    shift = (damping * square.diagonal().mean()).clamp(min=torch.finfo(square.dtype).tiny)
    factor = torch.linalg.cholesky(square + shift * torch.eye(len(square), dtype=square.dtype, device=square.device))
    return torch.cholesky_solve(cross.mT, factor).mT


def _refit_down(module: Any, expert: int, own: Routed, seen: Seen, damping: float, stored: torch.dtype) -> None:
    found = _moments(module, expert, own, seen, by_kind=False)
    weight = module.down_proj[expert].mT if module.is_transposed else module.down_proj[expert]  # [hidden, C]
    before = weight.to(torch.float32, copy=True)
    change = _solved(found.square[0], found.cross[0], damping)
    weight.copy_((before.double() + change).to(stored))
    moved = weight.float() - before
    for tokens, read in _read(module, expert, own.tokens, own.gates, seen):
        seen.give(tokens, read @ moved.mT)


def _moments(module: Any, expert: int, own: Routed, seen: Seen, *, by_kind: bool) -> _Moments:
    """by_kind: whether sums are kept apart, or there is one."""
    squares, crosses, energies = [], [], []
    device = module.down_proj.device
    counts = own.counts if by_kind else (len(own.tokens),)
    hidden, channels = seen.missing.shape[1], module.down_proj.shape[1 if module.is_transposed else 2]
    for tokens, gates in zip(own.tokens.split(counts), own.gates.split(counts), strict=True):
        square = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        cross = torch.zeros(hidden, channels, dtype=torch.float64, device=device)
        energy = torch.zeros((), dtype=torch.float64, device=device)
        for some, read in _read(module, expert, tokens, gates, seen):
            missing = seen.missing_of(some, device)
            square += read.mT @ read
            cross += missing.mT @ read
            energy += missing.square().sum(dtype=torch.float64)
        squares.append(square)
        crosses.append(cross)
        energies.append(energy)
    return _Moments(torch.stack(squares), torch.stack(crosses), torch.stack(energies))


def _read(
    module: Any, expert: int, tokens: torch.Tensor, gates: torch.Tensor, seen: Seen
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Some tokens after the other, with g a of each: float32 [N, C]."""
    device = module.down_proj.device
    for some, gate in zip(tokens.split(ROWS), gates.split(ROWS), strict=True):
        if len(some):
            rows = seen.inputs_of(some, device)
            yield some, inner_products(module, rows, expert).float() * gate.to(device)[:, None]
