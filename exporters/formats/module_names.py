"""What engines call the modules that stay unquantized: every format's config must list them under each name.

vLLM gives every MoE block one name (`.mlp`), whatever the checkpoint calls it, and takes the experts of a layer as one.
"""

import re
from collections.abc import Iterable, Sequence

from sixfold.model.architecture import Linear

_EXPERTS = re.compile(r"(.*\.experts)\.\d+\..*")
_ON_DISK, _IN_ENGINES = ".block_sparse_moe.", ".mlp."


def unquantized_modules(linears: Sequence[Linear], quantized: frozenset[str], not_run: Iterable[str]) -> list[str]:
    """Entries for all of a model's Linears but the `quantized` ones, and for what transformers does not run.

    quantized: names; of a layer's experts all or none, since engines convert them as one module.
    not_run: tensor names. Engines do build these modules (multi-token prediction), some a level deeper than on disk
    ("model.layers.61.mtp_block.self_attn..."): a layer of which nothing else runs is excluded by its prefix.
    """
    names: dict[str, None] = {}
    for linear in linears:
        if linear.name not in quantized:
            names.update(dict.fromkeys(module_names(linear)))
    running = {_layer(linear.name) for linear in linears}
    for tensor in not_run:
        layer = _layer(tensor)
        if layer and layer not in running:
            names[layer] = None
        elif tensor.endswith(".weight") and "norm" not in tensor.rsplit(".", 2)[-2]:
            names.update(dict.fromkeys(aliases(_module(tensor.removesuffix(".weight")))))
    return list(names)


def module_names(linear: Linear) -> list[str]:
    return sorted({alias for name in (linear.name, linear.module) for alias in aliases(_module(name))})


def _module(name: str) -> str:
    """The module that engines decide about: all experts of a layer are one."""
    found = _EXPERTS.fullmatch(name)
    return found.group(1) if found else name


def _layer(name: str) -> str:
    """The prefix of a decoder layer with its closing dot, "" outside of them."""
    found = re.match(r"(?:.*\.)?layers\.\d+\.", name)
    return found.group(0) if found else ""


def aliases(name: str) -> list[str]:
    """The name, and what engines call it that give every MoE block one name."""
    return [name, name.replace(_ON_DISK, _IN_ENGINES)] if _ON_DISK in name else [name]
