"""The matrices of a GGUF file that an importance matrix may have an entry for, and the Linears that they hold."""

from dataclasses import dataclass

from sixfold.model.architecture import Linear
from sixfold.model.gguf.arrangements import latent_half, latent_halves, row_parts
from sixfold.model.gguf.tensor_names import gguf_tensor_names
from sixfold.model.latent_attention import latent_heads
from sixfold.model.source import Source

_KEPT = ("ffn_gate_inp", "ffn_gate_inp_shexp")
"""Routers stay float32."""


@dataclass(frozen=True)
class Weight:
    """One tensor of a GGUF file.

    linears: on disk, experts in order, with gate and up of each where the file holds them as one; tensors that are
    parts of one on disk have that one. matrices: one per expert, or per head of a half of kv_b_proj. weighted: whether
    its rounding is weighted, as llama-quantize does it with what llama-imatrix records unless told otherwise: not
    embeddings and output, nor routers; nor what calibration does not observe (the small projections of a delta net).
    """

    linears: tuple[Linear, ...]
    matrices: int
    columns: int
    weighted: bool


def weights_of(source: Source, layer: int | None = None) -> dict[str, Weight]:
    """By GGUF name; of all the model or of one decoder layer."""
    config = source.checkpoint.config
    linears = {li.weight: li for li in source.architecture.linears if layer in (None, li.layer)}
    held: dict[str, list[Linear]] = {}
    for name, gguf_name in gguf_tensor_names(config, linears).items():
        held.setdefault(gguf_name, []).append(linears[name])
    found: dict[str, Weight] = {}
    for name, parts in held.items():
        ordered = tuple(sorted(parts, key=lambda linear: linear.expert or 0))
        first = ordered[0]
        heads, halves = latent_heads(config, first), latent_halves(config, name)
        observed = first.layer is not None and first.role != "other"
        weighted = observed and name.split(".")[-2] not in _KEPT and not halves
        experts = len({linear.expert for linear in ordered})
        for held_as in row_parts(name) or (name,):
            found[held_as] = Weight(ordered, experts, first.in_features, weighted)
        if heads is not None:
            for half in halves:
                found[half] = Weight(ordered, heads.heads, heads.channels(latent_half(half) or ""), weighted=True)
    return found
