"""How an artifact's weights were rounded, as far as it says: what decides which error of a weight is sound.

nearest      every weight on its own: the error of a block is bounded by its scale
weighted     scales were chosen by the importance of input channels: the weighted error is small, and channels that do
             not matter may lose more than any bound on a block's own error allows
clipped      ranges of groups were narrowed where that hurts inputs less (AWQ): a weight at a group's end may lose much
             of itself, and the tensor as a whole no more than by rounding to nearest
compensated  codes make up for the errors of those before them (GPTQ), and need not be the nearest
rounded-inputs  the same, where what was rounded is not the weight but what is best for inputs that are rounded too
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sixfold.artifact.manifest import beside
from sixfold.artifact.workspace import read_json
from sixfold.errors import SixfoldError
from sixfold.statistics.importance_matrix import MatrixEntry, open_importance_matrix

Kind = Literal["nearest", "weighted", "clipped", "compensated", "rounded-inputs"]


@dataclass(frozen=True)
class Rounding:
    """importance: float32 [in], the mean square of each input channel; None where it is not at hand."""

    kind: Kind
    importance: torch.Tensor | None = None


NEAREST = Rounding("nearest")

ROUNDED_INPUTS = "NVFP4"
"""The scheme in which something else than the weight is rounded where errors are compensated."""


def stated_rounding(artifact: Path) -> Kind | None:
    """What the recipe in an artifact's manifest says; None without a manifest. artifact: a folder or a GGUF file."""
    manifest = read_json(beside(artifact, "manifest.json"))
    recipe = (manifest or {}).get("recipe")
    if not isinstance(recipe, Mapping):
        return None
    if recipe.get("rounding") == "compensated":
        return "rounded-inputs" if recipe.get("scheme") == ROUNDED_INPUTS else "compensated"
    return "clipped" if recipe.get("exporter") == "awq" else "nearest"  # whichever layout it wrote


def importance_beside(file: Path, named: object) -> Mapping[str, MatrixEntry]:
    """Entries of the importance matrix that a GGUF file was weighted by, where it lies beside it; {} else.

    named: the file's `quantize.imatrix.file`, a path on the machine that wrote it.
    """
    path = file.parent / Path(str(named)).name
    if not isinstance(named, str) or not path.is_file():
        return {}
    try:
        return open_importance_matrix(str(path)).entries
    except SixfoldError:
        return {}


def importance_of(entry: MatrixEntry | None, matrix: int) -> torch.Tensor | None:
    """Of one matrix of an entry (an expert of a stack): float32 [in], as llama-quantize takes it: all channels alike
    where no token was counted, or where no channel carried anything."""
    if entry is None:
        return None
    matrices = len(entry.counts)
    if not matrix < max(matrices, 1):
        return None
    sums = torch.tensor(entry.sums.reshape(matrices, -1)[matrix])
    count = float(entry.counts[matrix])
    return sums / count if count > 0 and bool((sums > 0).any()) else torch.ones_like(sums)
