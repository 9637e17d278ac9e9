"""What every Linear and expert reads, written down literally: plain transformers in float32, expert by expert."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sixfold.model.architecture import Architecture


def read_inputs(folder: Path, architecture: Architecture, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """On-disk Linear name -> float32 [tokens that reach it, channels], in the order of the tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    weights = {k: v.float() for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}
    modules = dict(model.named_modules())
    inputs: dict[str, list[torch.Tensor]] = defaultdict(list)
    routes: dict[str, list[tuple[torch.Tensor, ...]]] = defaultdict(list)

    def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        inputs[name].append(args[0].reshape(-1, args[0].shape[-1]).clone())

    def remember_route(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        hidden, index, *_ = (*args, *kwargs.values())
        routes[name].append((hidden.clone(), index.clone()))

    for linear in architecture.linears:
        module, hook, key = modules[linear.module], remember, linear.name
        if linear.expert is not None:
            hook, key = remember_route, linear.module
            if linear.expert > 0 or linear.part != "down":
                continue
        module.register_forward_pre_hook(lambda m, a, k, hook=hook, key=key: hook(m, a, k, key), with_kwargs=True)
    with torch.no_grad():
        for sample in ids:
            model(input_ids=sample[None], use_cache=False)
    found = {name: torch.cat(parts) for name, parts in inputs.items()}
    names = {(x.module, x.expert, x.part): x.name for x in architecture.linears if x.expert is not None}
    for module_name, parts in routes.items():
        hidden, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        act = modules[module_name].act_fn
        for expert in range(architecture.experts):
            rows = hidden[(index == expert).any(1)]
            gate, up, down = (names[(module_name, expert, part)] for part in ("gate", "up", "down"))
            found[gate] = found[up] = rows
            found[down] = act(rows @ weights[gate + ".weight"].T) * (rows @ weights[up + ".weight"].T)
    return found
