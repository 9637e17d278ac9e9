"""Types of a GGUF file's tensors that neither a preset nor a budget chooses: of what the recipe keeps, of what the
source holds in a type of ggml's, and of multi-token prediction (MTP) layers."""

import re
from collections.abc import Iterator, Mapping

from gguf import GGMLQuantizationType

from exporters.ggml.kernels import PLAIN, block_size, type_named
from exporters.ggml.mxfp4 import MXFP4, is_held
from exporters.ggml.tensors import Tensor
from sixfold.boundary.patterns import pattern
from sixfold.checkpoint.config_fields import draft_layers
from sixfold.model.gguf.architectures import decoder_config
from sixfold.model.gguf.drafts import block_of
from sixfold.model.meta_model import completed
from sixfold.model.source import Source
from sixfold.name_lists import some
from sixfold.recipes.recipe import Recipe

_DRAFTS = GGMLQuantizationType.Q8_0
_NEVER_ROUNDED = re.compile(r"per_layer_model_proj|altup|laurel")
"""Matrices that llama-quantize leaves in the precision of the file that it starts from (Gemma 3n and 4), in their
names."""

_PLAIN_PRESETS = tuple(qtype.name for qtype in PLAIN)


def stated_types(source: Source, recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, GGMLQuantizationType]:
    """By name of the tensor; nothing of those that are chosen for."""
    held = {name: MXFP4 for name, tensor in tensors.items() if is_held(tensor)}
    plain = recipe.scheme in _PLAIN_PRESETS
    never = (
        {} if plain else {name: _of_source(source, tensors[name]) for name in filter(_NEVER_ROUNDED.search, tensors)}
    )
    return {**_draft_types(source, recipe.scheme, tensors), **held, **never, **_kept(source, recipe, tensors)}


def stated_notes(source: Source, recipe: Recipe, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    layers, declared = _decoder_layers(source), draft_layers(source.checkpoint.config)
    blocks = len({block_of(name) for name in tensors if block_of(name) >= layers})
    if blocks:
        kind = recipe.scheme if recipe.scheme in _PLAIN_PRESETS else _DRAFTS.name
        yield f"MTP layers behind the decoder's, which llama.cpp drafts with if asked: {blocks}, matrices in {kind}"
    elif declared:
        yield f"config.json declares MTP layers ({declared}), and the file holds none"
    held = [name for name, tensor in tensors.items() if is_held(tensor)]
    if held:
        yield f"in MXFP4, number for number as the source holds them: {some(held)}"
    kept = _kept(source, recipe, tensors)
    if kept:
        yield f"kept in the source's precision: {some(list(kept))}"


def _draft_types(source: Source, scheme: str, tensors: Mapping[str, Tensor]) -> dict[str, GGMLQuantizationType]:
    """Q8_0, and F16 where rows are not whole blocks of it; {} for plain presets.

    transformers does not run these layers, so that nothing is known of what they read; they are a percent or two of a
    model, and a wrong draft costs speed.
    """
    if scheme in _PLAIN_PRESETS:
        return {}
    layers = _decoder_layers(source)
    return {
        name: GGMLQuantizationType.F16 if tensor.shape[-1] % block_size(_DRAFTS) else _DRAFTS
        for name, tensor in tensors.items()
        if block_of(name) >= layers
    }


def _decoder_layers(source: Source) -> int:
    return int(decoder_config(completed(source.checkpoint.config))["num_hidden_layers"])


def _kept(source: Source, recipe: Recipe, tensors: Mapping[str, Tensor]) -> dict[str, GGMLQuantizationType]:
    """Tensors that the recipe keeps in the source's precision; a stack of experts as a whole, if any of them is."""
    patterns = [pattern(text) for text in recipe.keep]
    linears = {linear.weight: linear.name for linear in source.architecture.linears}
    return {
        name: _of_source(source, tensor)
        for name, tensor in tensors.items()
        if any(kept.search(linears[i]) for kept in patterns for i in tensor.inputs if i in linears)
    }


def _of_source(source: Source, tensor: Tensor) -> GGMLQuantizationType:
    return type_named(source.checkpoint.tensors[tensor.inputs[0]].dtype)
