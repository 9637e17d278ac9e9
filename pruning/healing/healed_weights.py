"""Refitted weights on their way into the checkpoint: one safetensors file for each layer, by on-disk name."""

from pathlib import Path

import torch
from safetensors import safe_open

from pruning.anatomy import ExpertTensor

_SUFFIXES = (".down_proj", ".gate_up_proj", ".up_proj")


def is_refitted(tensor: ExpertTensor) -> bool:
    """Whether healing changes a tensor of experts: their projections, not their biases."""
    return tensor.parameter.endswith(_SUFFIXES) and tensor.axis == 0


def layer_file(layer: int) -> str:
    return f"healed-{layer:05d}.safetensors"


class HealedWeights:
    """What `heal` left in a folder."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("healed-*.safetensors")):
            with safe_open(path, "pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def read(self, name: str) -> torch.Tensor | None:
        """None where the tensor stayed as it was."""
        path = self._files.get(name)
        if path is None:
            return None
        with safe_open(path, "pt") as file:
            found: torch.Tensor = file.get_tensor(name)
            return found
