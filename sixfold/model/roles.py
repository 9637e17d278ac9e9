"""What a Linear is for, and with it whether its weights may be rounded: from its place in transformers' own model."""

import re
from collections.abc import Collection, Mapping

from torch import nn

from sixfold.model.module_map import Placement

QUANTIZED_ROLES = frozenset({"attention", "mlp", "expert", "shared_expert"})

_ROUTER = re.compile(r"(^|\.)(\w*router\w*|gate|wg)(\.|$)")
"""What families call the modules that choose experts. The dataflow knows them by what they decide; their name is the
second guard, for models whose forward cannot be traced or does not go through transformers' experts interface."""


def role_of(
    place: Placement,
    out_features: int,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    experts: Mapping[str, int],
    routers: Collection[str],
    decoder: str,
) -> str:
    """One of the roles that `sixfold.model.architecture.Linear` lists.

    experts: experts module ("model.layers.1.mlp.experts") -> number of experts.
    routers: parameters that the dataflow found to choose experts.
    decoder: module of the language model, "" where that is all; a tower for images beside it is left alone.
    """
    name = _parent(place.parameter)
    module = modules[name]
    if place.parameter in routers:
        return "router"
    if module is model.get_output_embeddings():  # type: ignore[operator]  # it is a PreTrainedModel
        return "lm_head"
    if place.expert is not None:
        return "expert"
    if decoder and not name.startswith(decoder + "."):
        return "other"
    path = name.lower()
    attention = "attn" in path or "attention" in path
    block = next((_parent(e) for e in experts if name.startswith(_parent(e) + ".")), None)
    if _ROUTER.search(path):
        return "router"
    if "indexer" in path.split("."):
        return "indexer"
    if block is not None and not attention:
        # A shared expert's gate has one output; it weighs the expert as a router does.
        chooses = out_features == 1 or (out_features == experts[f"{block}.experts"] and _parent(name) == block)
        return "router" if chooses else "shared_expert"
    if not isinstance(module, nn.Linear):
        return "other"
    if attention:
        return "attention"
    return "mlp" if "mlp" in path or "feed_forward" in path or "ffn" in path else "other"


def decoder_of(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Name of the module that holds the language model's layers, "" where the model does not say."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]  # as above
    return next((name for name, module in modules.items() if module is found), "")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
