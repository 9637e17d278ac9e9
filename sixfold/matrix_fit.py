"""Whether an importance matrix is of a model: an entry for each weight that is rounded by one, of the right shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sixfold.architecture import Linear
from sixfold.errors import SixfoldError
from sixfold.gguf_names import gguf_tensor_names, latent_half, latent_halves
from sixfold.importance_matrix import ImportanceMatrix
from sixfold.latent_attention import latent_heads
from sixfold.listing import some
from sixfold.source import Source

_NEVER_ROUNDED = ("ffn_gate_inp", "ffn_gate_inp_shexp")
"""Routers stay float32."""
_OUTSIDE = ("output.weight", "token_embd.weight")
_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True)
class Weight:
    """One tensor of a GGUF file. linears: on disk, experts in order. matrices: one per expert, or per head of a half of
    kv_b_proj. needed: whether a matrix without it is of no use."""

    linears: tuple[Linear, ...]
    matrices: int
    columns: int
    needed: bool


def weights_of(source: Source) -> dict[str, Weight]:
    """By GGUF name: every matrix multiplication that llama-imatrix may have an entry for."""
    config = source.checkpoint.config
    linears = {linear.weight: linear for linear in source.architecture.linears}
    held: dict[str, list[Linear]] = {}
    for name, gguf_name in gguf_tensor_names(config, linears).items():
        held.setdefault(gguf_name, []).append(linears[name])
    found: dict[str, Weight] = {}
    for name, parts in held.items():
        ordered = tuple(sorted(parts, key=lambda linear: linear.expert or 0))
        first = ordered[0]
        heads, halves = latent_heads(config, first), latent_halves(config, name)
        rounded = first.layer is not None and name.split(".")[-2] not in _NEVER_ROUNDED
        found[name] = Weight(ordered, len(ordered), first.in_features, rounded and not halves)
        if heads is not None:
            for half in halves:
                found[half] = Weight(ordered, heads.heads, heads.channels(latent_half(half) or ""), needed=False)
    return found


def check_fit(matrix: ImportanceMatrix, source: Source, weights: Mapping[str, Weight]) -> None:
    """weights: as from `weights_of`. Raises SixfoldError, naming entries, where the matrix is not of this model."""
    model = source.checkpoint.name
    alien = [name for name in matrix.entries if name not in weights and not _outside(name, source)]
    missing = [name for name, weight in weights.items() if weight.needed and name not in matrix.entries]
    if alien or missing:
        faults = [f"entries that no tensor of {model} has: {some(alien)}"] if alien else []
        faults += [f"none for {some(missing)}"] if missing else []
        raise _unfit(matrix, f"has {' and '.join(faults)}")
    for name, weight in weights.items():
        entry = matrix.entries.get(name)
        if entry is None:
            continue
        values, counts = len(entry.sums), len(entry.counts)
        if values != weight.matrices * weight.columns or counts not in (1, weight.matrices):
            raise _unfit(
                matrix,
                f"has {values} sums and {counts} counts for {name}, where {model} has {weight.matrices}"
                f" {'matrix' if weight.matrices == 1 else 'matrices'} of {weight.columns} columns",
            )


def _outside(name: str, source: Source) -> bool:
    """What llama.cpp knows besides: embeddings and output, and layers behind the last one (multi-token prediction)."""
    layer = _LAYER.match(name)
    extra = int(source.checkpoint.config.get("num_nextn_predict_layers") or 0)
    behind = layer is not None and 0 <= int(layer[1]) - source.architecture.layers < extra
    return name in _OUTSIDE or behind


def _unfit(matrix: ImportanceMatrix, what: str) -> SixfoldError:
    return SixfoldError(
        f"the importance matrix {matrix.path} {what}",
        "take one that llama-imatrix made from this model's own GGUF (of a pruned model, not from the original's), or"
        " leave calibration.imatrix out",
    )
