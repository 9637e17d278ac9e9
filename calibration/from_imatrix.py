"""Statistics from an importance matrix that llama-imatrix made: sums of squares, for formats that need nothing else.

Each weight of the matrix becomes a site of its own, so that an export rounds by the very numbers that llama-quantize
would use, and statistics of experts that saw few tokens are not replaced. Other statistics of a pass do not exist;
reading them raises an error (sixfold.statistics.statistics).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.forward_pass.coverage import Coverage, coverage_of, coverage_to_json
from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.workspace import replacing
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.errors import SixfoldError
from sixfold.model.gguf.arrangements import ValueHeads, latent_half, tiled_inputs
from sixfold.model.source import Source
from sixfold.statistics.gguf_weights import Weight, weights_of
from sixfold.statistics.importance_matrix import ImportanceMatrix
from sixfold.statistics.importance_matrix_fit import check_fit
from sixfold.statistics.statistics import layer_file, starred


def take_over(matrix: ImportanceMatrix, source: Source, folder: Path, min_tokens: int) -> dict[str, Any]:
    """Write a statistics file for each layer into `folder`; returns what the manifest says of them.

    Raises SixfoldError where the matrix is of another model, or holds NaN or infinity.
    """
    weights = weights_of(source)
    check_fit(matrix, source, weights)
    layers: dict[int | None, dict[str, Weight]] = {}
    for name, weight in weights.items():
        if name in matrix.entries:
            layers.setdefault(weight.linears[0].layer, {})[name] = weight
    ordered = sorted(layers.items(), key=lambda item: (item[0] is None, item[0] or 0))
    files: dict[str, FileRecord] = {}
    for layer, held in ordered:
        config = source.checkpoint.config
        tensors = {
            key: tensor
            for name, weight in held.items()
            for key, tensor in _tensors(matrix, name, weight, tiled_inputs(config, name))
        }
        file = folder / layer_file(layer)
        with replacing(file) as temporary:
            digest = write_tensors(temporary, tensors, {"format": "pt"})
        files[file.name] = FileRecord(file.stat().st_size, digest)
    held_in_all = {name: weight for held in layers.values() for name, weight in held.items()}
    observed = {linear.weight for weight in held_in_all.values() for linear in weight.linears}
    taken = {name: weight for name, weight in held_in_all.items() if not latent_half(name)}
    without = {linear.weight for linear in source.architecture.linears} - observed
    return {
        "sites": {_site(weight): _description(weight) for weight in taken.values()},
        "moe": {},
        "without_statistics": sorted(without | set(source.architecture.not_run)),
        "coverage": coverage_to_json(tuple(_coverage(matrix, taken, min_tokens))),
        "files": {name: asdict(record) for name, record in files.items()},
    }


def _tensors(
    matrix: ImportanceMatrix, name: str, weight: Weight, heads: ValueHeads | None
) -> Iterator[tuple[str, torch.Tensor]]:
    entry = matrix.entries[name]
    if not (np.isfinite(entry.sums).all() and np.isfinite(entry.counts).all()):
        raise SixfoldError(
            f"the importance matrix {matrix.path} has values that are infinite or not a number for {name}",
            "make it again, or leave calibration.imatrix out",
        )
    sums = torch.from_numpy(np.array(entry.sums, np.float32)).view(weight.matrices, weight.columns)
    sums = sums if heads is None else heads.untiled(sums)
    counts = torch.from_numpy(np.rint(entry.counts).astype(np.int64)).expand(weight.matrices).contiguous()
    half, linear = latent_half(name), weight.linears[0]
    if half:
        yield f"{linear.name}/{half}_sq", sums
        yield f"{linear.name}/{half}_count", counts[0].clone()
    else:
        stacked = linear.expert is not None
        yield f"{_site(weight)}/sum_sq", sums if stacked else sums[0].clone()
        yield f"{_site(weight)}/count", counts if stacked else counts[0].clone()


def _site(weight: Weight) -> str:
    return starred(weight.linears[0].name, weight.linears[0].expert)


def _description(weight: Weight) -> dict[str, Any]:
    first = weight.linears[0]
    experts = None if first.expert is None else weight.matrices
    linears = list(dict.fromkeys(starred(linear.name, linear.expert) for linear in weight.linears))
    return {"layer": first.layer, "experts": experts, "linears": linears}


def _coverage(matrix: ImportanceMatrix, taken: Mapping[str, Weight], min_tokens: int) -> Iterator[Coverage]:
    """Of each layer's experts, where the matrix counts their tokens."""
    for name, weight in taken.items():
        first, counts = weight.linears[0], matrix.entries[name].counts
        if first.part == "down" and first.layer is not None and matrix.format == "gguf" and len(counts) > 1:
            yield coverage_of(first.layer, tuple(round(float(n)) for n in counts), min_tokens)
