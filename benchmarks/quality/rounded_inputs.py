"""Where the error of NVFP4 weights under NVFP4 inputs comes from, and what each way to lower it brings.

    python -m benchmarks.quality.rounded_inputs MODEL [--layers 2] [--experts 3] [--texts PATH] [--samples 64]
                                                [--length 512] [--out FOLDER]

Of some layers' Linears, by what they read: the squared error of the outputs over their squares, with inputs rounded as
an engine rounds them. Every other of the calibration's sample rows says how inputs are rounded, the rest measure.
`inputs alone` is with the source's weights, `corrected` with the unrounded weights that are best for rounded inputs;
then weights rounded with errors compensated for inputs as they are, and for rounded ones (what `nvfp4-gb10` does), by
every channel's own rows alone, with other damping, with more sweeps, with the global scale of each input chosen by its
error on the former rows, and with channels evened out by powers of two before. --out keeps the calibration for the next
time.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch

from calibration.calibrate import calibrate
from exporters.input_maxima import largest_inputs
from exporters.numerics.nvfp4 import input_global_scale
from exporters.rounding import rounded_inputs
from exporters.rounding.compensate import SWEEPS, compensate
from exporters.rounding.factor import factor
from exporters.rounding.inputs import Inputs
from exporters.rounding.nvfp4 import Nvfp4
from exporters.rounding.rounded_inputs import for_rounded_inputs, rounded
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.architecture import Linear
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import load_recipes
from sixfold.statistics.input_moments import Moments
from sixfold.statistics.statistics import Statistics


@dataclass(frozen=True)
class Case:
    """Linears that read one input. rows, others: float32 [S / 2, in], of it, to be described and to measure. weight:
    float32 [out, in], one below the other."""

    kind: str
    moments: Moments
    rows: torch.Tensor
    others: torch.Tensor
    weight: torch.Tensor
    scale: torch.Tensor


def cases(source: Source, statistics: Statistics, layers: Sequence[int], experts: Sequence[int]) -> list[Case]:
    known = Inputs(statistics, torch.device("cpu"))
    linears = {linear.name: linear for linear in source.architecture.linears}
    found = []
    for linear in linears.values():
        group = [linears[name] for name in linear.fused] or [linear]
        wanted = linear.layer in layers and linear.quantizable and linear.expert in (None, *experts)
        if wanted and group[0] is linear and known.one([each.name for each in group]):
            found.append(_case(source, statistics, known, group))
    return found


def _case(source: Source, statistics: Statistics, known: Inputs, group: Sequence[Linear]) -> Case:
    first = group[0].name
    moments = known.moments(first)
    assert moments is not None  # as something is known of it
    parts = [source.checkpoint.read(TensorSlice(each.weight, 0, each.out_features)).float() for each in group]
    scale = input_global_scale(largest_inputs(statistics, [group[0]])[0][first])
    kind = "+".join(each.part or each.name.rpartition(".")[2] for each in group)
    rows = known.sample(first).float()
    return Case(kind, moments, rows[::2], rows[1::2], torch.cat(parts), scale)


def error(case: Case, weight: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    outputs = case.others @ case.weight.t()
    read = rounded(case.others, case.scale if scale is None else scale)
    return float((read @ weight.t() - outputs).square().sum() / outputs.square().sum())


def made(case: Case, damping: float = 1.0, sweeps: int = SWEEPS, *, aware: bool = True) -> torch.Tensor:
    """The weight as `nvfp4-gb10` holds it. damping: times the usual. aware: of inputs that are rounded."""
    if aware:
        moments = _Damped(case.moments.mean, case.moments.chance, damping)
        known, target = for_rounded_inputs(moments, case.rows, case.scale, [case.weight])
    else:
        known, target = factor(case.moments.mean[None], case.moments.damping * damping), case.weight
    form = Nvfp4((448 * 6 / case.weight.abs().max()).reshape(1))
    return compensate(target[None], known, form, sweeps).values[0]


@dataclass(frozen=True)
class _Damped(Moments):
    times: float = 1.0

    @property
    def damping(self) -> float:
        return super().damping * self.times


def corrected(case: Case) -> torch.Tensor:
    return for_rounded_inputs(case.moments, case.rows, case.scale, [case.weight])[1]


def scale_by_error(case: Case) -> torch.Tensor:
    tried = [case.scale * 2 ** (step / 4) for step in range(-4, 17)]
    return min(tried, key=lambda scale: float((rounded(case.rows, scale) - case.rows).square().sum()))


def evened(case: Case, power: float = 0.5) -> Case:
    """With channels divided by powers of two near that power of their root mean square, and weights multiplied."""
    root = case.moments.mean.diagonal().clamp(min=1e-20).sqrt()
    by = 2 ** (power * (root.log2() - root.log2().mean())).round()
    moments = replace(case.moments, mean=case.moments.mean / by / by[:, None])
    rows = case.rows / by
    scale = case.scale * case.rows.abs().max() / rows.abs().max()
    return Case(case.kind, moments, rows, case.others / by, case.weight * by, scale)


def _evened_error(case: Case) -> float:
    other = evened(case)
    return error(other, made(other))


def _by_own_rows(case: Case) -> float:
    with patch.object(rounded_inputs, "_ROWS", 0):
        return error(case, made(case))


WAYS: dict[str, Callable[[Case], float]] = {
    "inputs alone": lambda case: error(case, case.weight),
    "inputs alone, corrected": lambda case: error(case, corrected(case)),
    "compensated for inputs as they are": lambda case: error(case, made(case, aware=False)),
    "compensated for rounded inputs": lambda case: error(case, made(case)),
    "by each channel's own rows": _by_own_rows,
    "a third of the damping": lambda case: error(case, made(case, damping=1 / 3)),
    "three times the damping": lambda case: error(case, made(case, damping=3)),
    "five sweeps": lambda case: error(case, made(case, sweeps=5)),
    "input scale by its error": lambda case: error(case, made(case), scale_by_error(case)),
    "channels evened out": _evened_error,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layers", type=int, default=2, help="how many, evenly apart")
    parser.add_argument("--experts", type=int, default=3, help="of each of them, the first")
    parser.add_argument("--texts")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    stated = {"texts": options.texts and f"[{options.texts}]", "samples": options.samples, "length": options.length}
    (recipe,) = load_recipes("nvfp4-gb10", [f"calibration.{key}={value}" for key, value in stated.items() if value])
    source = open_source(options.model)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(options.out or Path(folder), source.checkpoint.name)
        made_in = workspace.calibration(recipe.calibration)
        statistics = calibrate(source, recipe.calibration, made_in, progress=unseen).statistics
        layers = sorted({linear.layer for linear in source.architecture.linears if linear.layer is not None})
        chosen = layers[:: max(1, len(layers) // options.layers)][: options.layers]
        found = cases(source, statistics, chosen, range(options.experts))
        kinds = list(dict.fromkeys(case.kind for case in found))
        print(f"| | {' | '.join(kinds)} |\n|---|{'---:|' * len(kinds)}")
        for name, way in WAYS.items():
            errors = [(case.kind, way(case)) for case in found]
            of = {kind: [each for at, each in errors if at == kind] for kind in kinds}
            print(f"| {name} | {' | '.join(f'{sum(each) / len(each):.5f}' for each in of.values())} |", flush=True)


if __name__ == "__main__":
    main()
