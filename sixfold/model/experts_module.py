"""transformers' modules that hold all experts of a layer in a few parameters, and how these lie in memory."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sixfold.checkpoint.expert_slice import StackLayout

BIAS = "_bias"
PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "up_proj": ("up_proj",),
    "down_proj": ("down_proj",),
}
"""Parameter of an experts module (its bias ends in `_bias`) -> the projections of each expert that it holds."""


def experts_per_layer(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Experts modules (transformers' shared interface: 3-D parameters [experts, out, in]) with their expert count."""
    found = {}
    for name, module in modules.items():
        stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3]
        if stacked and name.rsplit(".", 1)[-1] == "experts":
            found[name] = stacked[0].shape[0]
    return found


def computed_layout(module: Any, leaf: str) -> StackLayout:
    """How the parameter `leaf` of an experts module lies in memory.

    Modules of transformers' experts interface say so. Of others (Llama 4) the shapes tell, which are
    [experts, 2 x intermediate, hidden] and [experts, hidden, intermediate] unless transposed.
    """
    parts = len(PROJECTIONS[leaf.removesuffix(BIAS)])
    transposed = getattr(module, "is_transposed", None)
    if transposed is None:
        gate_up, down = module.gate_up_proj.shape, module.down_proj.shape
        transposed = (gate_up[1], gate_up[2]) == (down[2], 2 * down[1])
    interleaved = parts == 2 and not getattr(module, "is_concatenated", True)
    return StackLayout(parts, interleaved, transposed and not leaf.endswith(BIAS))


def multiplies_up(module: Any) -> bool:
    """Whether an expert's output is linear in what its up projection gives: not where that is clamped or shifted."""
    from transformers.integrations.moe import _default_apply_gate

    return getattr(type(module), "_apply_gate", _default_apply_gate) is _default_apply_gate
