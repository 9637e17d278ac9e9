"""Experts that transformers' shared interface could run, but for a decorator that their class does not have, or for
what they are called with."""

import inspect
import sys
from functools import wraps
from typing import Any

import torch
from torch import nn

_READS = ("self", "hidden_states", "top_k_index", "top_k_weights")
"""Arguments of a forward that the interface can take the place of."""

_OF_ALL_EXPERTS = {"view", "bmm", "gate_up_proj", "down_proj", "act_fn"}
"""What a forward uses that gets the rows of all experts, one expert behind the other."""

_ASKED = "_can_set_experts_implementation_cached_value"
"""Where transformers keeps whether it found the decorator in the source of a model's class."""


def join_interface(model_class: type) -> None:
    """Let the interface run the experts of a model's module that are made for it: they have its arguments and the gate
    that its products ask for, in the layout that it takes for given (Step-3.7); or they get the rows of all experts, of
    which all but the chosen ones are zeros (Llama 4). Others stay as they are.

    Before a model of the class is built. Once done, it is done for the process.
    """
    from transformers.integrations.moe import use_experts_implementation

    module = sys.modules[model_class.__module__]
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    fitting = [kind for kind in own if issubclass(kind, nn.Module) and _fits(kind)]
    for experts in fitting:
        use_experts_implementation(experts)
    sorted_rows = [kind for kind in own if issubclass(kind, nn.Module) and _gets_all_rows(kind)]
    for experts in sorted_rows:
        _run_chosen_rows(experts)
    for kind in own if fitting or sorted_rows else ():
        if hasattr(kind, "_can_set_experts_implementation"):
            setattr(kind, _ASKED, True)


def _fits(kind: type[nn.Module]) -> bool:
    forward = kind.forward
    return (
        "_apply_gate" in vars(kind)
        and not hasattr(forward, "__wrapped__")
        and tuple(inspect.signature(forward).parameters) == _READS
    )


def _gets_all_rows(kind: type[nn.Module]) -> bool:
    forward = kind.forward
    return (
        not hasattr(forward, "__wrapped__")
        and tuple(inspect.signature(forward).parameters) == ("self", "hidden_states")
        and set(forward.__code__.co_names) >= _OF_ALL_EXPERTS
    )


def _run_chosen_rows(kind: type[nn.Module]) -> None:
    """Let the interface run a class whose weights lie as [experts, in, out] and whose forward gets
    [experts * tokens, hidden], each row times its expert's gate: it is given the rows of each token's first choice,
    with gates of one, then those of the second, as if no two were chosen together (published models choose one).
    Experts without biases make zeros of zeros."""
    from transformers.integrations.moe import use_experts_implementation

    before = kind.forward
    kind.forward = _chosen_one_by_one
    use_experts_implementation(kind, is_transposed=True)
    run = kind.forward

    @wraps(before)
    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        every = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])
        sizes = every.abs().amax(-1)  # [experts, tokens]
        tokens, made = torch.arange(every.shape[1], device=every.device), torch.zeros_like(every)
        for chosen in sizes.topk(int((sizes > 0).sum(0).max()), dim=0).indices:
            rows, index = every[chosen, tokens], chosen.unsqueeze(1)
            made[chosen, tokens] = run(self, rows, index, torch.ones_like(index, dtype=rows.dtype))
        return made.view(hidden_states.shape)

    kind.forward = forward


def _chosen_one_by_one(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Of rows with one expert each."""
    total = torch.zeros_like(hidden_states)
    for expert in range(0 if hidden_states.is_meta else self.num_experts):
        (own,) = torch.where(top_k_index[:, 0] == expert)
        inner = self._apply_gate(hidden_states[own] @ self.gate_up_proj[expert])
        total[own] = inner @ self.down_proj[expert]
    return total
