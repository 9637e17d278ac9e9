"""Checkpoints that hold all experts of a layer as one array, seen with one matrix for each expert.

What a stack is made of comes from transformers' own model: the layout that its experts module computes with, carried
back to the disk by transformers' own conversion of weights. The matrices are called `experts.N.gate_proj`, `up_proj`
and `down_proj`, as llm-compressor writes them and as vLLM's and SGLang's loaders of these families read them.
"""

from copy import deepcopy
from itertools import product

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.expert_slice import ExpertSlice, StackLayout, with_slices
from sixfold.model.decoder import decoder_of
from sixfold.model.experts_module import BIAS, PROJECTIONS, computed_layout, experts_per_layer
from sixfold.model.meta_model import meta_model
from sixfold.model.module_map import Placement, converters_of, map_tensors


def with_single_experts(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a matrix (and a bias) for each expert in place of stacks; unchanged where there are none, and
    where a stack's layout is not one that is known here."""
    if not any(len(tensor.shape) > 2 and min(tensor.shape) > 1 for tensor in checkpoint.tensors.values()):
        return checkpoint
    model = meta_model(checkpoint)
    modules = dict(model.named_modules())
    experts, decoder = experts_per_layer(modules), decoder_of(model)
    placements, _ = map_tensors(model, checkpoint)
    slices: dict[str, ExpertSlice] = {}
    for name, place in placements.items():
        module, _, leaf = place.parameter.rpartition(".")
        if place.expert is not None or place.also or module not in experts or decoder.layer_of(module) is None:
            continue
        if leaf.removesuffix(BIAS) not in PROJECTIONS:
            continue
        layout = _stored_layout(model, leaf, place, checkpoint.tensors[name].shape)
        if layout is None:
            return checkpoint
        held = PROJECTIONS[leaf.removesuffix(BIAS)]
        held = held if layout.parts == len(held) else (held[place.part],)
        suffix = "bias" if leaf.endswith(BIAS) else "weight"
        for expert in range(experts[module]):
            for part, projection in enumerate(held):
                own = f"{_experts_name(name)}.{expert}.{projection}.{suffix}"
                slices[own] = ExpertSlice(name, expert, part, layout)
    return with_slices(checkpoint, slices) if slices else checkpoint


def _stored_layout(model: nn.Module, leaf: str, place: Placement, shape: tuple[int, ...]) -> StackLayout | None:
    """The layout whose parts, cut on disk, are the parts that the module computes with; None where there is none.

    Found on a stack of two experts of 4 x 6 numbers that all differ, taken through transformers' own conversion.
    """
    computed = computed_layout(model.get_submodule(place.parameter.rpartition(".")[0]), leaf)
    found = next((c for c in converters_of(model) if place.pattern in c.source_patterns), None)
    if found is None:
        return computed
    converter = deepcopy(found)
    if len(converter.source_patterns) > 1:  # a stack for each projection, side by side in the parameter
        joined = [(type(op).__name__, getattr(op, "dim", None)) for op in converter.operations] == [("Concatenate", 1)]
        return StackLayout(1, interleaved=False, transposed=False) if joined and not computed.transposed else None
    as_it_is = shape == tuple(model.get_parameter(place.parameter).shape)
    converter.operations = [op for op in converter.operations if not (as_it_is and getattr(op, "check_dims", False))]
    if not converter.operations:
        return computed
    for operation in converter.operations:
        operation.check_dims = False  # the shape above is what it would look at, and the one below is another
    probe = (2, 4) if leaf.endswith(BIAS) else (2, 4, 6)
    stored = torch.arange(torch.Size(probe).numel()).reshape(probe)
    converter.add_tensor(place.parameter, place.parameter, place.pattern, stored)
    made = next(iter(converter.convert(place.parameter, model=model, config=model.config).values()))
    memory = made[0] if isinstance(made, list) else made
    for interleaved, transposed in product((False, True), repeat=2):
        layout = StackLayout(computed.parts, interleaved and computed.parts > 1, transposed)
        if all(_same(layout, stored, computed, memory, part) for part in range(computed.parts)):
            return layout
    return None


def _same(one: StackLayout, stored: torch.Tensor, other: StackLayout, memory: torch.Tensor, part: int) -> bool:
    return all(torch.equal(one.rows_of(a, part), other.rows_of(b, part)) for a, b in zip(stored, memory, strict=True))


def _experts_name(stack: str) -> str:
    """What stands before an expert's number: "model.layers.0.mlp.experts" for ".experts.gate_up_proj", and
    "model.layers.0.block_sparse_moe.experts" for Granite's ".input_linear.weight"."""
    parent = stack.removesuffix(".weight").rpartition(".")[0]
    return parent if parent.endswith("experts") else f"{parent}.experts"
