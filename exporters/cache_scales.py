"""FP8 key-value caches: scales of keys and values for each layer with attention, beside the weights.

Engines quantize what attention caches, keys behind their rotary embedding and values, under one fixed scale each. One
walk over the layers with some of the calibration's texts finds the largest of both. The scales reach to twice that or
more: E4M3 loses no precision by it, and what lies beyond is cut off. They are powers of two, so that an engine that
keeps them in BF16 has the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, log2
from typing import Any

import torch

from exporters.formats.layouts import caches_fp8, layout_of
from exporters.protocol import Decisions, Tokens
from exporters.rounding.device import device
from sixfold.artifact.plan import Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor
from sixfold.artifact.workspace import read_json, write_json
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.runner.attention_function import Attention, attention_around
from sixfold.runner.layer_runner import LayerRunner
from sixfold.statistics.statistics import Statistics, required

ENCODING = "cache scales"
FILE = "caches.json"
"""Beside the statistics: made_of as in damages.json, and by layer the largest key and the largest value."""

SAMPLES = 32
"""Texts that are run."""
_MARGIN, _E4M3, _LEAST = 2.0, 448.0, 1e-6
_REMEDY = "leave options.kv_cache out"


def attention_modules(source: Source, recipe: Recipe) -> dict[int, str]:
    """Layer -> on-disk name of its attention. Raises SixfoldError where one caches something else than what k_proj and
    v_proj give: latents have no such scales."""
    parts: dict[int, dict[str, str]] = {}
    for linear in source.architecture.linears:
        if linear.role == "attention" and linear.layer is not None:
            parts.setdefault(linear.layer, {})[linear.part] = linear.name
    found = {
        layer: of["k_proj"].removesuffix(".k_proj") for layer, of in parts.items() if {"k_proj", "v_proj"} <= of.keys()
    }
    if not found or len(found) < len(parts):
        layer = min(parts.keys() - found.keys(), default=0)
        raise SixfoldError(
            f"{recipe.name}: engines have FP8 scales for what k_proj and v_proj give, and attention of layer {layer} of"
            f" {source.checkpoint.name} has no such projections",
            _REMEDY,
        )
    return found


def with_caches(source: Source, recipe: Recipe, drafts: Sequence[Draft]) -> list[Draft]:
    """Drafts with a layer's scales behind its k_proj; as they are where the recipe says nothing of caches."""
    if not caches_fp8(recipe):
        return list(drafts)
    behind = {f"{name}.k_proj.weight": (layer, name) for layer, name in attention_modules(source, recipe).items()}
    found = []
    for draft in drafts:
        found.append(draft)
        for layer, name in (behind[part.name] for part in draft.inputs if part.name in behind):
            found.append(Draft(ENCODING, (), _outputs(recipe, name), layer))
    return found


def cache_scales(source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> dict[str, torch.Tensor]:
    """float32, by the names of the tensors; {} where the recipe says nothing of caches."""
    if not caches_fp8(recipe):
        return {}
    name = attention_modules(source, recipe).get(layer)
    if name is None:
        return {}
    known = _known(source, required(statistics, recipe.name))
    if layer not in known:
        raise SixfoldError(f"{recipe.name} needs the largest keys and values, which were not found", "export it again")
    shape = layout_of(recipe).GLOBAL_SHAPE
    return {
        out.name: torch.full(shape, 2.0 ** ceil(log2(max(largest, _LEAST) * _MARGIN / _E4M3)))
        for out, largest in zip(_outputs(recipe, name), known[layer], strict=True)
    }


def encoded_scales(unit: Unit, decisions: Decisions) -> list[torch.Tensor]:
    return [decisions[out.name] for out in unit.outputs]


def find_largest(
    source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
) -> None:
    """Makes FILE, unless the recipe does not ask for it or it is there. Raises SixfoldError where it cannot be."""
    if not caches_fp8(recipe):
        return
    layers = attention_modules(source, recipe)
    if layers.keys() <= _known(source, statistics).keys():
        return
    if tokens is None:
        raise SixfoldError(f"{recipe.name}: scales of caches are found with texts, and there are none", _REMEDY)
    ids = tokens()
    ids = ids[:: max(1, len(ids) // SAMPLES)][:SAMPLES]
    found = _walked(source, recipe, layers, ids, progress)
    made_of = {"source": source.checkpoint.fingerprint, "statistics": statistics.digest}
    rows = {str(layer): list(values) for layer, values in sorted(found.items())}
    write_json(statistics.folder / FILE, {"made_of": made_of, "largest": rows})


def _walked(
    source: Source, recipe: Recipe, layers: Mapping[int, str], ids: torch.Tensor, progress: Progress
) -> dict[int, tuple[float, float]]:
    runner = LayerRunner(source, dtype=torch.float32, device=device(), read_into=source.checkpoint.read_into)
    found: dict[int, tuple[float, float]] = {}
    with (
        progress("finding the largest keys and values", len(runner.layers), "layers") as advance,
        torch.inference_mode(),
    ):
        with runner.outside():
            states = [runner.start(row[None]).cpu() for row in ids]
        if runner.hands_on:
            raise SixfoldError(
                f"{recipe.name}: layers of {source.checkpoint.name} hand on more than hidden states, and its caches are"
                " not followed",
                _REMEDY,
            )
        for layer, _ in runner.each_layer():
            with _seen(runner.model) as seen:
                for place, row in enumerate(ids):
                    states[place] = runner.run(layer, row[None], states[place].to(runner.device)).cpu()
            if layer in layers:
                if not seen:
                    raise SixfoldError(
                        f"{recipe.name}: attention of {source.checkpoint.name} does not call transformers' interface,"
                        " so that its keys are not seen",
                        _REMEDY,
                    )
                keys, values = torch.stack(seen).amax(0).tolist()
                found[layer] = keys, values
            advance(1)
    return found


@contextmanager
def _seen(model: Any) -> Iterator[list[torch.Tensor]]:
    """While open, the largest key and value of every call of attention, float32 [2], are added to the list."""
    seen: list[torch.Tensor] = []

    def around(function: Attention) -> Attention:
        def seeing(module: Any, query: Any, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any) -> Any:
            seen.append(torch.stack([key.abs().max(), value.abs().max()]).float())
            return function(module, query, key, value, *rest, **more)

        return seeing

    with attention_around(model.config._attn_implementation, around):
        yield seen


def _outputs(recipe: Recipe, attention: str) -> tuple[DraftTensor, DraftTensor]:
    layout = layout_of(recipe)
    keys, values = (DraftTensor(f"{attention}.{name}", "F32", layout.GLOBAL_SHAPE) for name in layout.CACHE_SCALES)
    return keys, values


def _known(source: Source, statistics: Statistics) -> dict[int, tuple[float, float]]:
    found = read_json(statistics.folder / FILE)
    made_of = {"source": source.checkpoint.fingerprint, "statistics": statistics.digest}
    if found is None or found.get("made_of") != made_of:
        return {}
    return {int(layer): (keys, values) for layer, (keys, values) in found["largest"].items()}
