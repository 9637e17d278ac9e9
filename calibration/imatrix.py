"""imatrix.gguf: the calibration's sums of squares as llama.cpp's importance matrix."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sixfold.artifact.workspace import replacing
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.gguf.arrangements import ValueHeads, latent_half, latent_halves, row_parts, tiled_inputs
from sixfold.model.gguf.tensor_names import gguf_tensor_names
from sixfold.model.latent_attention import latent_heads
from sixfold.model.source import Source
from sixfold.statistics.starved_experts import filled
from sixfold.statistics.statistics import Statistics

FILE = "imatrix.gguf"
NOT_COLLECTED = ("output.weight",)
"""llama-imatrix leaves it out unless told otherwise; llama-quantize then rounds it without weights."""


def write_imatrix(statistics: Statistics, source: Source, path: Path) -> tuple[str, ...]:
    """Write `path`, completely or not at all; returns the GGUF names that have an entry.

    Per weight, float32: `<name>.in_sum2` [matrices, columns], the sum over tokens of the input's squares, and
    `<name>.counts` [matrices, 1], the tokens. The experts of a layer are the matrices of one entry; one that too few
    tokens reached has the sums that replace its own (see sixfold.statistics.starved_experts). The heads of a half of
    kv_b_proj are in one row, one after the other. Tensor names are in order, so equal statistics give equal bytes.
    Raises SixfoldError where llama.cpp has no names for the architecture.
    """
    tokens = statistics.manifest["tokens"]
    entries = sorted(_entries(statistics, source).items())
    with replacing(path) as temporary:
        _write(temporary, entries, tokens)
    return tuple(name for name, _ in entries)


def _write(path: Path, entries: Sequence[tuple[str, "_Entry"]], tokens: Mapping[str, Any]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, arch="imatrix")
    del writer.kv_data[0][gguf.Keys.General.ARCHITECTURE]  # the writer sets it unasked; an imatrix has none
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", sorted(name for name, file in tokens["files"].items() if file["tokens"]))
    writer.add_uint32("imatrix.chunk_count", tokens["samples"])
    writer.add_uint32("imatrix.chunk_size", tokens["length"])
    for name, entry in entries:
        for part, (rows, columns) in zip(("in_sum2", "counts"), entry.shapes, strict=True):
            writer.add_tensor_info(f"{name}.{part}", (rows, columns), np.dtype(np.float32), rows * columns * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, entry in entries:  # one at a time: all layers' sums together grow with the model
        for values in entry.read():
            writer.write_tensor_data(values)
    writer.close()


@dataclass(frozen=True)
class _Entry:
    """shapes: of in_sum2 and of counts. read: gives both, float32."""

    shapes: tuple[tuple[int, int], tuple[int, int]]
    read: Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]]


def _entries(statistics: Statistics, source: Source) -> dict[str, _Entry]:
    """By GGUF name. All experts of a layer have one GGUF name and one stacked site."""
    config = source.checkpoint.config
    linears = {li.weight: li for li in source.architecture.linears if statistics.has(li.name)}
    entries: dict[str, _Entry] = {}
    for weight, name in gguf_tensor_names(config, linears).items():
        linear = linears[weight]
        if halves := latent_halves(config, name):
            entries |= {half: _of_heads(statistics, source, linear, half) for half in halves}
        elif name not in NOT_COLLECTED and name not in entries:
            entry = _of_site(statistics, statistics.site_of[linear.name][0], tiled_inputs(config, name))
            entries |= dict.fromkeys(row_parts(name) or (name,), entry)
    return entries


def _of_site(statistics: Statistics, site: str, heads: ValueHeads | None) -> _Entry:
    matrices, columns = statistics.shape_of(site)

    def read() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = filled(statistics, site, ("sum_sq", "count"))
        sums = found["sum_sq"] if heads is None else heads.tiled(found["sum_sq"])
        return sums.reshape(matrices, columns).numpy(), found["count"].reshape(matrices, 1).float().numpy()

    return _Entry(((matrices, columns), (matrices, 1)), read)


def _of_heads(statistics: Statistics, source: Source, linear: Linear, name: str) -> _Entry:
    """As llama-imatrix has it: all heads in one row, under one count."""
    half, heads = latent_half(name), latent_heads(source.checkpoint.config, linear)
    assert half is not None
    assert heads is not None
    assert linear.layer is not None
    found = statistics.head_inputs(linear.name, linear.layer, half)
    if found is None:
        raise SixfoldError(
            f"the calibration did not see what the halves of {linear.name} read", "leave the gguf recipes out"
        )
    columns = heads.heads * heads.channels(half)
    counts = np.full((1, 1), found.count, np.float32)
    return _Entry(((1, columns), (1, 1)), lambda: (found.sum_sq.reshape(1, columns).numpy(), counts))
