"""Where a model's decoder layers are: a tower for pictures or sound beside the decoder has layers of its own."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from sixfold.model.wrappers import NOTHING, around_of

_LISTS = re.compile(r"(^|\.)(layers|h|blocks)$")
"""What families call the list of their decoder layers."""


@dataclass(frozen=True)
class Decoder:
    """name: of the module that holds the language model, "" where that is all of it. layers: module names of its
    layers, in order; () where it has no list of them. head: of the module that makes the logits, None where there is
    none. around: an expression on names in that module of what is no part of it (see sixfold.model.wrappers)."""

    name: str
    layers: tuple[str, ...]
    head: str | None = None
    around: str = NOTHING

    def holds(self, name: str) -> bool:
        """Whether a parameter or module belongs to the language model."""
        if any(re.search(self.around, spelled) for spelled in (name, name + ".")):
            return False
        return not self.name or name.startswith(self.name + ".")

    def runs(self, parameter: str) -> bool:
        """Whether text alone passes through a parameter: not through towers beside it, nor their projectors."""
        return self.holds(parameter) or (self.head is not None and parameter.startswith(self.head + "."))

    def layer_of(self, name: str) -> int | None:
        """The decoder layer that a parameter or module belongs to."""
        found = self._layer.match(name) if self.layers else None
        return int(found[1]) if found else None

    @cached_property
    def _layer(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.layers[0].rpartition(".")[0]) + r"\.(\d+)\.")


def decoder_of(model: nn.Module) -> Decoder:
    """model: of transformers, on any device."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and _LISTS.search(name) and len(module)
    }
    found: Any = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
    named = _name_of(model, found) or ""
    inside = [name for name in lists if name.startswith(named + ".")]
    if not inside:  # some families give their head for a decoder
        named, inside = "", list(lists)
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    inside.sort(key=lambda name: (len(lists[name]) != count, name.count(".")))
    layers = tuple(f"{inside[0]}.{number}" for number in range(len(lists[inside[0]]))) if inside else ()
    head = _name_of(model, model.get_output_embeddings())  # type: ignore[operator]
    return Decoder(named, layers, head, around_of(model))


def _name_of(model: nn.Module, sought: Any) -> str | None:
    return next((name for name, module in model.named_modules() if module is sought), None)
