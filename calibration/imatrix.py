"""imatrix.gguf: the calibration's sums of squares as llama.cpp's importance matrix."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sixfold.gguf_names import gguf_tensor_names
from sixfold.source import Source
from sixfold.starved import filled
from sixfold.statistics import Statistics
from sixfold.workspace import sync_folder

FILE = "imatrix.gguf"
NOT_COLLECTED = ("output.weight",)
"""llama-imatrix leaves it out unless told otherwise; llama-quantize then rounds it without weights."""


def write_imatrix(statistics: Statistics, source: Source, path: Path) -> tuple[str, ...]:
    """Write `path`, whole or not at all; returns the GGUF names that have an entry.

    Per weight, float32: `<name>.in_sum2` [matrices, columns], the sum over tokens of the input's squares, and
    `<name>.counts` [matrices, 1], the tokens. The experts of a layer are the matrices of one entry; one that too
    few tokens reached has the sums of what stands in for it (see sixfold.starved). Tensor names are in order, so equal
    statistics give equal bytes.
    Raises SixfoldError where llama.cpp has no names for the architecture.
    """
    import gguf

    tokens = statistics.manifest["tokens"]
    sites = sorted(_sites(statistics, source).items())
    temporary = path.with_name(f".{path.name}.tmp")
    writer = gguf.GGUFWriter(temporary, arch="imatrix")
    del writer.kv_data[0][gguf.Keys.General.ARCHITECTURE]  # the writer sets it unasked; an imatrix has none
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", sorted(name for name, file in tokens["files"].items() if file["tokens"]))
    writer.add_uint32("imatrix.chunk_count", tokens["samples"])
    writer.add_uint32("imatrix.chunk_size", tokens["length"])
    for name, site in sites:
        matrices, columns = statistics.shape_of(site)
        for part, width in (("in_sum2", columns), ("counts", 1)):
            writer.add_tensor_info(f"{name}.{part}", (matrices, width), np.dtype(np.float32), matrices * width * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, site in sites:  # one at a time: all layers' sums together grow with the model
        for values in _rows(statistics, site):
            writer.write_tensor_data(values)
    writer.close()
    temporary.replace(path)
    sync_folder(path.parent)
    return tuple(name for name, _ in sites)


def _sites(statistics: Statistics, source: Source) -> dict[str, str]:
    """GGUF name -> site. All experts of a layer have one GGUF name and one stacked site."""
    weights = {linear.weight: linear.name for linear in source.architecture.linears if statistics.has(linear.name)}
    sites: dict[str, str] = {}
    for weight, name in gguf_tensor_names(source.checkpoint.config, weights).items():
        if name not in NOT_COLLECTED:
            sites.setdefault(name, statistics.site_of[weights[weight]][0])
    return sites


def _rows(statistics: Statistics, site: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(in_sum2 [matrices, columns], counts [matrices, 1])."""
    found = filled(statistics, site, ("sum_sq", "count"))
    sums = found["sum_sq"].reshape(-1, found["sum_sq"].shape[-1])
    return sums.numpy(), found["count"].reshape(-1, 1).float().numpy()
