"""Multi-token prediction layers have experts too, but transformers does not run them: there is no saliency for them.

They are left out by default, and config.json says so: the model's own output does not depend on them, engines lose
speculative decoding, and nothing is guessed. Where they must stay, their experts are pruned as the last layer's, which
is a guess about drafts only: what a wrong draft costs is speed.
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from pruning.anatomy import Anatomy, ExpertTensor
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError, UsageError

Mtp = Literal["drop", "as-last-layer", "refuse"]
CHOICES: tuple[str, ...] = get_args(Mtp)

_EXPERT = re.compile(r"experts\.(\d+)\.")


def mtp_tensors(checkpoint: Checkpoint, anatomy: Anatomy, mtp: Mtp) -> Mapping[str, ExpertTensor]:
    """Tensors of the MTP layers that hold something for experts, with the last MoE layer's number; {} where dropped.

    Raises UsageError where there are MTP layers and the choice is to refuse them, SixfoldError where their experts are
    not laid out as the last layer's.
    """
    if not anatomy.mtp or mtp == "drop":
        return {}
    if mtp == "refuse":
        raise UsageError(
            f"{checkpoint.location} has multi-token prediction layers ({anatomy.mtp[0]} and {len(anatomy.mtp) - 1}"
            " more), whose experts have no saliency",
            "drop them, or prune them as the last layer (--mtp)",
        )
    last = anatomy.layers[-1]
    known = {_inside(name): tensor for name, tensor in anatomy.tensors.items() if tensor.layer == last}
    found: dict[str, ExpertTensor] = {}
    for name in anatomy.mtp:
        expert = _EXPERT.search(name)
        if _inside(name) in known:
            found[name] = known[_inside(name)]
        elif expert is not None:
            raise SixfoldError(
                f"{name} has no counterpart in layer {last}, so its experts cannot be pruned as that layer's",
                "drop the MTP layers (--mtp drop)",
            )
    return found


def _inside(name: str) -> str:
    """The name within its layer: "model.layers.61.mlp.gate.weight" -> "mlp.gate.weight"."""
    return re.split(r"layers\.\d+\.", name, maxsplit=1)[-1]
