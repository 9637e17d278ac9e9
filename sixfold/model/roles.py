"""What a Linear is for, and with it whether its weights may be rounded: from its place in transformers' own model."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sixfold.model.decoder import Decoder
from sixfold.model.module_map import Placement

QUANTIZED_ROLES = frozenset({"attention", "mixer", "mlp", "expert", "shared_expert"})
"""Roles that engines run quantized in some format; which format rounds which of them by default, exporters say."""

_ROUTER = re.compile(r"(^|\.)(\w*router\w*|gate|wg)(\.|$)")
"""What families call the modules that choose experts. The dataflow knows them by what they decide; their name is the
second guard, for models whose forward cannot be traced or does not go through transformers' experts interface."""

_CONTROL = re.compile(r"(^|\.)(in_proj_(a|b|ba)|[abfg]_proj|[fg]_[ab]_proj|x_proj|dt_proj)$")
"""What families call the small projections of a recurrent mixer; their shape tells them too."""

_NARROW = 4
"""A projection of a recurrent mixer whose smaller side is less than this part of the hidden size makes no channels of
its values: it sets how fast the state decays and how much of an input enters (beta, dt, decay, low-rank gates)."""


def role_of(
    place: Placement,
    shape: tuple[int, ...],
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    experts: Mapping[str, int],
    routers: Collection[str],
    decoder: Decoder,
) -> str:
    """One of the roles that `sixfold.model.architecture.Linear` lists.

    shape: of the weight, [out, in]. experts: experts module ("model.layers.1.mlp.experts") -> number of experts.
    routers: parameters that the dataflow found to choose experts.
    """
    name = _parent(place.parameter)
    module = modules[name]
    if place.parameter in routers:
        return "router"
    if module is model.get_output_embeddings():  # type: ignore[operator]  # it is a PreTrainedModel
        return "lm_head"
    if place.expert is not None:
        return "other" if place.also else "expert"  # of a layer whose experts are dealt out to several routers
    layer = decoder.layer_of(name)
    if layer is None:
        return "other"
    path = name.lower()
    if _ROUTER.search(path):
        return "router"
    if "indexer" in path.split("."):
        return "indexer"
    hidden = model.config.get_text_config().hidden_size  # type: ignore[union-attr,operator]
    within = [modules[above] for above in _above(name, decoder.layers[layer])]
    if any(is_recurrent(above) for above in within):
        control = _CONTROL.search(path) or min(shape) * _NARROW < hidden or not isinstance(module, nn.Linear)
        return "other" if control else "mixer"
    attention = "attn" in path or "attention" in path or any("Attention" in type(above).__name__ for above in within)
    block = next((_parent(e) for e in experts if name.startswith(_parent(e) + ".")), None)
    if block is not None and block != decoder.layers[layer] and not attention:
        # A shared expert's gate has one output; it weighs the expert as a router does.
        chooses = shape[0] == 1 or (shape[0] == experts[f"{block}.experts"] and _parent(name) == block)
        return "router" if chooses else "shared_expert"
    if not _multiplies(module):  # DeepSeek-V4's grouped output is no plain product
        return "other"
    if attention:
        return "attention"
    named = "mlp" in path or "feed_forward" in path or "ffn" in path
    return "mlp" if named or _is_mlp(modules[_parent(name)], hidden) else "other"


def is_recurrent(module: nn.Module) -> bool:
    """Mamba, delta nets, gated short convolutions: tokens meet in a convolution along the sequence."""
    return any(isinstance(child, nn.Conv1d) for child in module.children())


def _multiplies(module: nn.Module) -> bool:
    """Whether a Linear computes what torch's does, if in other words (Falcon's): asked of a small one of its class."""
    kind = type(module)
    if kind.forward is nn.Linear.forward:
        return True
    probe: Any = kind.__new__(kind)
    nn.Module.__init__(probe)
    probe.weight = nn.Parameter(torch.arange(12.0).view(3, 4))
    probe.bias = nn.Parameter(torch.arange(3.0))
    given = torch.eye(4)
    try:
        with torch.no_grad():
            return torch.equal(probe(given), functional.linear(given, probe.weight, probe.bias))
    except Exception:  # whatever another forward raises where there is nothing but weights
        return False


def _is_mlp(module: nn.Module, hidden: int) -> bool:
    """Whether its Linears widen the hidden state and bring it back: `fc1` and `fc2`, under whatever name. Low-rank
    adapters narrow it."""
    linears = [child for child in module.children() if isinstance(child, nn.Linear)]
    widened = {linear.out_features for linear in linears if linear.in_features == hidden}
    back = {linear.in_features for linear in linears if linear.out_features == hidden}
    return any(width >= hidden for width in widened & back)


def _above(name: str, top: str) -> list[str]:
    """Modules from the one that holds `name` up to, and without, the decoder layer `top`."""
    found = []
    while (name := _parent(name)) != top and name.startswith(top):
        found.append(name)
    return found


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
