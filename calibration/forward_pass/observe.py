"""Watching what each Linear and each expert reads while transformers runs its own forward.

Experts are watched through transformers' experts interface: one function serves every family that has it, with the
top-k indices and gate weights that the family's own router computed. Every other Linear is watched by a hook on the
first module of its input site; what several Linears read is counted once. What the halves of latent attention's
kv_b_proj read is taken where attention is computed.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from calibration.forward_pass.expert_forward import routed_forward
from calibration.forward_pass.latent_inputs import latents_watched
from calibration.forward_pass.observation import ExpertRecord, Observation
from sixfold.model.architecture import Linear
from sixfold.runner.experts import experts_run_by
from sixfold.statistics.statistics import moe_of


@contextmanager
def observed(model: Any, observation: Observation) -> Iterator[None]:
    """While open, every forward of `model` (a transformers model, or the part of it that is run) is recorded."""
    modules = dict(model.named_modules())
    plain: dict[str, str] = {}
    for linear in observation.linears:
        if linear.expert is None:
            plain.setdefault(linear.site, linear.module)
    records = {
        module: ExpertRecord(observation, moe_of(sites["down"]), sites["up"], sites["down"])
        for module, sites in expert_sites(modules, observation.linears).items()
    }
    records |= {id(modules[stack.module]): ExpertRecord(observation, stack.module) for stack in observation.stacks}

    def experts_forward(
        module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        return routed_forward(module, hidden_states, top_k_index, top_k_weights, records[id(module)])

    handles = [
        modules[module].register_forward_pre_hook(_input_hook(observation, site), with_kwargs=True)
        for site, module in plain.items()
    ]
    names = {linear.name: linear.module for linear in observation.linears}
    try:
        with (
            experts_run_by(model, experts_forward) if records else nullcontext(),
            latents_watched(model, observation.latents, names, observation.only_counted),
        ):
            yield
    finally:
        for handle in handles:
            handle.remove()


def expert_sites(modules: Mapping[str, nn.Module], linears: Iterable[Linear]) -> dict[int, dict[str, str]]:
    """id of each experts module -> {"up", "down": the site of what its first and its last projections read}."""
    found: dict[int, dict[str, str]] = {}
    for linear in linears:
        if linear.expert is not None:
            side = "down" if linear.part == "down" else "up"
            found.setdefault(id(modules[linear.module]), {})[side] = linear.site
    return found


def _input_hook(observation: Observation, site: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        observation.record(site, given.reshape(-1, given.shape[-1]))

    return hook
