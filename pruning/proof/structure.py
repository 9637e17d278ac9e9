"""Whether a pruned folder is one model: its experts, router rows, biases and config.json agree in each layer."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pruning.anatomy import dissect
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source


@dataclass(frozen=True)
class LayerStructure:
    """experts: on disk, one by one or as rows of a stacked tensor. vectors: length of everything else that has an entry
    for each expert, by name (router rows, correction biases, per-expert scales)."""

    layer: int
    experts: int
    vectors: dict[str, int]


@dataclass(frozen=True)
class Structure:
    """config: what config.json says. layers: what is on disk."""

    config: int
    layers: tuple[LayerStructure, ...]


def check_structure(folder: Path, unpruned: Source) -> tuple[Source, Structure]:
    """The folder opened again, from config.json and headers alone, and what was found in it.

    transformers' own model is built from its config.json, and every tensor must be in its place there: missing, unknown
    and misshapen ones are refused when it is opened. unpruned: extra entries (Zaya's skip) are as many as there.
    Raises SixfoldError where a layer disagrees.
    """
    source = open_source(folder)
    before, after = dissect(unpruned), dissect(source)
    extra = {
        name: unpruned.checkpoint.as_stored.tensors[name].shape[found.axis] - before.experts
        for name, found in before.tensors.items()
        if found.expert is None
    }
    singles: dict[int, set[int]] = defaultdict(set)
    vectors: dict[int, dict[str, int]] = defaultdict(dict)
    for name, found in after.tensors.items():
        if found.expert is not None:
            singles[found.layer].add(found.expert)
        else:
            vectors[found.layer][name] = source.checkpoint.as_stored.tensors[name].shape[found.axis] - extra.get(
                name, 0
            )
    layers = tuple(
        LayerStructure(layer, len(singles[layer]) or max(vectors[layer].values()), vectors[layer])
        for layer in after.layers
    )
    for entry in layers:
        wrong = {name: rows for name, rows in vectors[entry.layer].items() if rows != after.experts}
        if entry.experts != after.experts or wrong or before.layers != after.layers:
            raise SixfoldError(
                f"layer {entry.layer} of {folder} has {entry.experts} experts, config.json says {after.experts}"
                f" ({wrong or 'every vector agrees'})",
                "this is a defect of the pruning: report it with plan.json",
            )
    return source, Structure(after.experts, layers)
