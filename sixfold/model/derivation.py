"""The architecture of a checkpoint, derived from its config, its tensor names and transformers' own model."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.config_fields import COUNT, TOP_K, largest
from sixfold.model import dataflow
from sixfold.model.architecture import Architecture, ExpertStack, Linear, Norm
from sixfold.model.decoder import Decoder, decoder_of
from sixfold.model.experts_module import experts_per_layer, multiplies_up
from sixfold.model.layer_by_layer import needs_float32, why_not_layered
from sixfold.model.meta_model import meta_model
from sixfold.model.module_map import Placement, map_tensors, tied_parameters
from sixfold.model.roles import QUANTIZED_ROLES, is_recurrent, role_of

FUSED_BY_ENGINES = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
"""Sibling Linears that vLLM and SGLang load into one matrix with one global scale."""

_CORRECTION_BIAS = re.compile(r"(correction_bias|expert_bias)$")
_EXPERT_PARTS = {"gate_up_proj": ("gate", "up"), "up_proj": ("up",), "down_proj": ("down",)}


_derived: dict[bytes, Architecture] = {}
_REMEMBERED = 16


def derive_architecture(checkpoint: Checkpoint) -> Architecture:
    """Raises SixfoldError where transformers does not know the model, or the tensors do not fit the config.

    Derived once in a process for the same config and tensors: a source and all that was made of it are opened in turn.
    """
    identity = _identity(checkpoint)
    known = _derived.get(identity)
    if known is None:
        known = _derive(checkpoint)
        while len(_derived) >= _REMEMBERED:
            _derived.pop(next(iter(_derived)), None)
        _derived[identity] = known
    return known


def _identity(checkpoint: Checkpoint) -> bytes:
    """Of all that an architecture depends on: config.json, and the tensors in their order, with how they are cut."""
    digest = sha256(repr(checkpoint.config).encode())
    for name, tensor in checkpoint.tensors.items():
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {checkpoint.slices.get(name)}\n".encode())
    return digest.digest()


def _derive(checkpoint: Checkpoint) -> Architecture:
    model = meta_model(checkpoint, dtype=torch.bfloat16, attention="eager")
    placements, not_run = map_tensors(model, checkpoint)
    text_config = model.config.get_text_config()  # type: ignore[union-attr,operator]  # it is a PreTrainedModel
    flow, untraced = _trace(model)
    modules = dict(model.named_modules())
    experts = experts_per_layer(modules)
    decoder = decoder_of(model)
    # Some families run experts as one wide matrix of their own kind (dbrx).
    unknown_experts = not experts and largest(text_config.to_dict(), COUNT) > 1
    drafts = [
        _linear(name, place, checkpoint, model, modules, experts, flow, decoder)
        for name, place in placements.items()
        if _is_matrix(place, checkpoint.tensors[name].shape, modules)
    ]
    linears = _with_groups(drafts, flow, {place.parameter: name for name, place in placements.items()})
    return Architecture(
        model_type=str(checkpoint.config["model_type"]),
        layers=len(decoder.layers) or text_config.num_hidden_layers,
        experts=max(experts.values(), default=0),
        experts_per_token=largest(text_config.to_dict(), TOP_K) if experts else 0,
        linears=linears,
        norms=_norms(placements, drafts, linears, modules, flow, decoder),
        correction_biases=tuple(
            name
            for name in checkpoint.tensors
            if _CORRECTION_BIAS.search(name)
            or (name in placements and _CORRECTION_BIAS.search(placements[name].parameter))
        ),
        stacked_experts=tuple(
            name
            for name, place in placements.items()
            if place.expert is None
            and decoder.layer_of(place.parameter) is not None
            and (
                _parent(place.parameter) in experts
                or _is_stack(place, checkpoint.tensors[name].shape, modules)
                or (unknown_experts and "experts" in place.parameter.split("."))
            )
        ),
        stacks=_stacks(placements, experts, decoder),
        tied_embeddings=bool(tied_parameters(model)),
        not_run=not_run,
        unobserved="" if untraced is None else f"{type(untraced).__name__}: {untraced}".splitlines()[0],
        bent_experts=tuple(name for name in experts if not multiplies_up(modules[name])),
        unlayered=why_not_layered(model, decoder, experts, untraced),
        in_float32=needs_float32(model, decoder),
        tied_copies=_tied_copies(model, placements),
        towers=tuple(name for name, place in placements.items() if not decoder.runs(place.parameter)),
    )


def _trace(model: nn.Module) -> tuple[dataflow.Dataflow, Exception | None]:
    try:
        return dataflow.trace(model), None
    except Exception as error:  # a third party's forward: whatever it raises means that it cannot run without data
        return dataflow.Dataflow(), error


def _stacks(
    placements: Mapping[str, Placement], experts: Mapping[str, int], decoder: Decoder
) -> tuple[ExpertStack, ...]:
    modules = {_parent(place.parameter): None for place in placements.values() if place.expert is None}
    return tuple(
        ExpertStack(module, layer, experts[module])
        for module in modules
        if module in experts and (layer := decoder.layer_of(module)) is not None
    )


def _tied_copies(model: nn.Module, placements: Mapping[str, Placement]) -> tuple[tuple[str, str], ...]:
    on_disk = {place.parameter: name for name, place in placements.items()}
    pairs = getattr(model, "all_tied_weights_keys", None) or {}
    return tuple((on_disk[one], on_disk[two]) for one, two in pairs.items() if one in on_disk and two in on_disk)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _is_stack(place: Placement, shape: tuple[int, ...], modules: Mapping[str, nn.Module]) -> bool:
    """Several matrices in one tensor: experts of a family that does not run them through transformers' interface."""
    module = _parent(place.parameter)
    convolution = isinstance(modules[module], (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    mixer = any(is_recurrent(modules[above]) for above in (module, _parent(module)))
    return len(shape) == 3 and min(shape) > 1 and not convolution and not mixer


def _is_matrix(place: Placement, shape: tuple[int, ...], modules: Mapping[str, nn.Module]) -> bool:
    if len(shape) != 2:
        return False
    module = modules[_parent(place.parameter)]
    return place.expert is not None or (
        place.parameter.endswith(".weight") and not isinstance(module, (nn.Embedding, nn.Conv1d))
    )


@dataclass(frozen=True)
class _Draft:
    linear: Linear
    reads: str
    """Key of the dataflow: a parameter, or the experts module."""


def _linear(
    name: str,
    place: Placement,
    checkpoint: Checkpoint,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    experts: Mapping[str, int],
    flow: dataflow.Dataflow,
    decoder: Decoder,
) -> _Draft:
    shape = checkpoint.tensors[name].shape
    out_features, in_features = shape
    module_name = _parent(place.parameter)
    linear = name.removesuffix(".weight")
    part = linear.rsplit(".", 1)[-1]
    if place.expert is not None:
        part = _EXPERT_PARTS[place.parameter.rsplit(".", 1)[-1]][place.part]
    role = role_of(place, shape, model, modules, experts, flow.routers, decoder)
    layer = decoder.layer_of(place.parameter)
    reads = module_name if place.expert is not None else place.parameter
    norm = flow.norm_of.get(reads) if part != "down" or place.expert is None else None
    return _Draft(
        Linear(
            name=linear,
            module=module_name,
            layer=layer,
            expert=place.expert,
            role=role,
            part=part,
            out_features=out_features,
            in_features=in_features,
            norm=norm,
            site=linear,
            fused=(),
            quantizable=role in QUANTIZED_ROLES and layer is not None,
        ),
        reads,
    )


def _with_groups(drafts: list[_Draft], flow: dataflow.Dataflow, on_disk: Mapping[str, str]) -> tuple[Linear, ...]:
    """Fill in what depends on the neighbors: input sites, engine-fused groups, and on-disk names of norms."""
    siblings: dict[tuple[str, int | None], dict[str, str]] = defaultdict(dict)
    for draft in drafts:
        last = draft.linear.name.rsplit(".", 1)[-1]
        siblings[(_parent(draft.linear.name), draft.linear.expert)][last] = draft.linear.name
    first_reader: dict[int, str] = {}
    linears = []
    for draft in drafts:
        linear = draft.linear
        if linear.expert is not None:
            parent, last = linear.name.rsplit(".", 1)
            names = siblings[(parent, linear.expert)]
            reader = last if linear.part == "down" else next(iter(_gate_or_up(names, last)))
            site = parent.removesuffix(f".{linear.expert}") + ".*." + reader
        else:
            origin = flow.origin_of.get(draft.reads)
            site = linear.name if origin is None else first_reader.setdefault(origin, linear.name)
        fused = _fused(siblings[(_parent(linear.name), linear.expert)], linear.name.rsplit(".", 1)[-1])
        norm = None if linear.norm is None else on_disk.get(linear.norm + ".weight")  # some norms have no weights
        linears.append(replace(linear, site=site, fused=fused, norm=norm))
    return tuple(linears)


def _gate_or_up(names: Mapping[str, str], last: str) -> tuple[str, ...]:
    """The Linears of an expert that read its input, gate first."""
    group = next((g for g in FUSED_BY_ENGINES if last in g), (last,))
    return tuple(n for n in group if n in names)


def _fused(names: Mapping[str, str], last: str) -> tuple[str, ...]:
    group = next((g for g in FUSED_BY_ENGINES if last in g), ())
    present = tuple(names[n] for n in group if n in names)
    return present if len(present) > 1 else ()


def _norms(
    placements: Mapping[str, Placement],
    drafts: list[_Draft],
    linears: tuple[Linear, ...],
    modules: Mapping[str, nn.Module],
    flow: dataflow.Dataflow,
    decoder: Decoder,
) -> tuple[Norm, ...]:
    known = {draft.reads for draft in drafts}
    readers: dict[str, list[str]] = defaultdict(list)
    for linear in linears:
        if linear.norm is not None:
            readers[linear.norm].append(linear.name)
    norms = []
    for name, place in placements.items():
        module = _parent(place.parameter)
        if not (dataflow.is_norm(modules[module]) and place.parameter.endswith(".weight")):
            continue
        one_plus = dataflow.is_one_plus(modules[module])
        traced = set(flow.norm_readers.get(module, ()))
        norms.append(
            Norm(
                weight=name,
                layer=decoder.layer_of(place.parameter),
                readers=tuple(readers[name]),
                exact=bool(traced) and traced <= known and module not in flow.inexact and one_plus is not None,
                one_plus=bool(one_plus),
            )
        )
    return tuple(norms)
