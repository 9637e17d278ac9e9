"""Experts that transformers' shared interface could run, but for a decorator that their class does not have."""

import inspect
import sys

from torch import nn

_READS = ("self", "hidden_states", "top_k_index", "top_k_weights")
"""Arguments of a forward that the interface can take the place of."""

_ASKED = "_can_set_experts_implementation_cached_value"
"""Where transformers keeps whether it found the decorator in the source of a model's class."""


def join_interface(model_class: type) -> None:
    """Let the interface run the experts of a model's module that are made for it: they have its arguments and the gate
    that its products ask for, in the layout that it takes for given (Step-3.7). Others stay as they are.

    Before a model of the class is built. Once done, it is done for the process.
    """
    from transformers.integrations.moe import use_experts_implementation

    module = sys.modules[model_class.__module__]
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    fitting = [kind for kind in own if issubclass(kind, nn.Module) and _fits(kind)]
    for experts in fitting:
        use_experts_implementation(experts)
    for kind in own if fitting else ():
        if hasattr(kind, "_can_set_experts_implementation"):
            setattr(kind, _ASKED, True)


def _fits(kind: type[nn.Module]) -> bool:
    forward = kind.forward
    return (
        "_apply_gate" in vars(kind)
        and not hasattr(forward, "__wrapped__")
        and tuple(inspect.signature(forward).parameters) == _READS
    )
