"""Whether an importance matrix belongs to a model: it has an entry of the right shape for each weight that needs
one."""

import re
from collections.abc import Mapping

from sixfold.errors import SixfoldError
from sixfold.model.gguf.arrangements import latent_half
from sixfold.model.source import Source
from sixfold.name_lists import some
from sixfold.statistics.gguf_weights import Weight
from sixfold.statistics.importance_matrix import ImportanceMatrix

_OUTSIDE = ("output.weight", "token_embd.weight")
_LAYER = re.compile(r"^blk\.(\d+)\.")


def check_fit(matrix: ImportanceMatrix, source: Source, weights: Mapping[str, Weight]) -> None:
    """weights: the model's, as from `weights_of`. Raises SixfoldError, naming entries, where the matrix is not of it.

    It may be without the halves of kv_b_proj: llama-imatrix recorded the whole before llama.cpp split it.
    """
    model = source.checkpoint.name
    alien = [name for name in matrix.entries if name not in weights and not _outside(name, source)]
    needed = [name for name, weight in weights.items() if weight.weighted and not latent_half(name)]
    missing = [name for name in needed if name not in matrix.entries]
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
