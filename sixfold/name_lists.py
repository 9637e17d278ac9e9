"""Many names in one sentence."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_LAYER = re.compile(r"^(.*?\blayers\.\d+)\.")
_NUMBER = re.compile(r"\.\d+(?=\.)")


def some(names: Sequence[str]) -> str:
    """The first three, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def by_pattern(names: Iterable[str]) -> str:
    """Names that differ only in numbers are counted: "model.layers.*.mlp.gate (61)"."""
    return _counted(_NUMBER.sub(".*", name) for name in names)


def by_layer(names: Iterable[str]) -> str:
    """Names of whole layers: "model.layers.61 (791)"; of names outside of layers those that differ only in numbers are
    counted: "visual.blocks.*.attn.proj.bias (27)"."""
    return _counted(found[1] if (found := _LAYER.match(name)) else _NUMBER.sub(".*", name) for name in names)


def _counted(keys: Iterable[str]) -> str:
    return ", ".join(key if count == 1 else f"{key} ({count})" for key, count in Counter(keys).items())
