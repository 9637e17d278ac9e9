"""What every variant of a model costs, and what its technique brings: each against the same format without it.

    python -m benchmarks.quality MODEL [VARIANT]... [--heldout FOLDER] [--tokens 1024] [--texts PATH] [--samples 64]
                                 [--length 512] [--json FILE]

Every shipped variant is made, read by independent code and run in float32 over held-out texts, with the weights alone
and with inputs rounded as its engine rounds them. So is the same format without its technique:

    gguf-q3_k_m, -q4_k_m, -iq4_xs   rounded without an importance matrix
    awq                             rounded to nearest: the same layout, no search, no narrower ranges
    nvfp4                           nvfp4-gb10: the same weights, but inputs in four bits too

KL is the mean per token in nats, from the source. `gain` is the other's KL minus the variant's, both as run, over the
same tokens, with its standard error: windows are drawn independently, tokens within one are not, so the error is that
of a mean over windows (a ratio estimate, as windows differ in length). This many tokens cannot show a gain that is
within two standard errors of zero.

--heldout names a folder of other texts (its subfolders are domains), of which at most --tokens of each file are read;
--texts names what calibration reads. Both are the built-in texts by default. A 25M model takes a quarter of an hour on
two cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from calibration.calibrate import calibrate
from cli.verdicts import artifact_of
from exporters.run import export, needs_statistics
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.sizes import size
from sixfold.texts.held_out_text import TEXTS, TOKENS, Windows, held_out
from verification.divergence.divergence import Reference, reference_of, scored
from verification.judge import runs_of
from verification.verify import verify

PLAIN_GGUF = ("gguf-q3_k_m", "gguf-q4_k_m", "gguf-iq4_xs")
VARIANTS = ("fp8", "nvfp4", "awq", "gguf-q8_0", "gguf-q6_k", "gguf-q4_k_m", "gguf-iq4_xs", "gguf-q3_k_m")
OTHERS = {
    "nvfp4": "inputs in NVFP4 too",
    "awq": "rounded to nearest",
    **dict.fromkeys(PLAIN_GGUF, "no importance matrix"),
}


@dataclass(frozen=True)
class Run:
    """weights, as_run: mean KL. kl: of every token as run, float64. source_perplexity: of the source on these texts."""

    nbytes: int
    weights: float
    as_run: float
    top1: float
    kl: torch.Tensor
    source_perplexity: float


@dataclass(frozen=True)
class Gain:
    """Mean per token of the other's KL less the variant's, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Row:
    variant: str
    nbytes: int
    weights: float
    as_run: float
    top1: float
    source_perplexity: float
    other: str = ""
    other_as_run: float | None = None
    other_top1: float | None = None
    gain: Gain | None = None


def recipes_of(variant: str, overrides: Sequence[str]) -> tuple[Recipe, Recipe | None]:
    """The variant's, and that of its other."""
    (recipe,) = load_recipes(variant, tuple(overrides))
    if variant == "nvfp4":
        (other,) = load_recipes("nvfp4-gb10", tuple(overrides))
        return recipe, other
    apart = {"name": f"{variant}-plain", "suffix": f"{recipe.suffix}-PLAIN"}
    if variant == "awq":
        return recipe, recipe.model_copy(update={**apart, "exporter": "benchmarks.round_to_nearest"})
    if variant in PLAIN_GGUF:
        return recipe, recipe.model_copy(update={**apart, "options": {**recipe.options, "imatrix": False}})
    return recipe, None


def gain(variant: torch.Tensor, other: torch.Tensor, windows: Windows) -> Gain:
    """variant, other: KL of every token, float64 [tokens]."""
    less = (other - variant).split([len(window) for window in windows.ids])
    sums = torch.stack([part.sum() for part in less])
    lengths = torch.tensor([len(part) for part in less], dtype=torch.float64)
    mean = float(sums.sum() / lengths.sum())
    count = len(less)
    spread = (sums - mean * lengths).pow(2).sum() * count / (count - 1)
    return Gain(mean, float(spread.sqrt() / lengths.sum()))


class Bench:
    def __init__(self, model: str, heldout: Path, tokens: int, overrides: Sequence[str], out: Path) -> None:
        self.source = open_source(model)
        checkpoint = self.source.checkpoint
        self.workspace = Workspace(out, checkpoint.name)
        self.windows = held_out(load_tokenizer(checkpoint.folder), heldout, tokens)
        self.overrides = overrides
        self.reference: Reference = reference_of(self.source, self.windows, out / "reference", unseen)

    def row(self, variant: str) -> Row:
        recipe, other = recipes_of(variant, self.overrides)
        one = self._run(recipe)
        row = Row(variant, one.nbytes, one.weights, one.as_run, one.top1, one.source_perplexity)
        if other is None:
            return row
        two = self._run(other)
        compared = {"other": OTHERS[variant], "other_as_run": two.as_run, "other_top1": two.top1}
        return Row(**{**vars(row), **compared, "gain": gain(one.kl, two.kl, self.windows)})

    def _run(self, recipe: Recipe) -> Run:
        statistics = None
        if needs_statistics(recipe):
            folder = self.workspace.calibration(recipe.calibration)
            statistics = calibrate(self.source, recipe.calibration, folder, progress=unseen).statistics
        made = export(self.source, recipe, self.workspace, statistics, threads=2, progress=unseen)
        path = artifact_of(made.folder, made.manifest)
        checked = verify(path, self.source, unseen)
        if not checked.passed:
            raise RuntimeError(f"{recipe.name} is not sound: {checked.failures[0]}")
        weights, runs = runs_of(path, self.source)
        found = {
            name: scored(self.source, weights, runs[name], self.windows, self.reference, unseen)
            for name in ("weights", "engine")
            if name in runs
        }
        held = found.get("engine", found["weights"])
        alone, as_run = found["weights"].score, held.score
        return Run(made.nbytes, alone.mean_kl, as_run.mean_kl, as_run.top1, held.kl, alone.source_perplexity)


def table(rows: Sequence[Row]) -> str:
    head = (
        "| variant | size | KL, weights alone | KL as run | top-1 | against | its KL | its top-1 | gain | ratio |\n"
        "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    own = (f"`{row.variant}`", size(row.nbytes), f"{row.weights:.5f}", f"{row.as_run:.5f}", f"{row.top1:.4f}")
    if row.gain is None or row.other_as_run is None:
        return (*own, "", "", "", "", "")
    difference = f"{row.gain.mean:+.5f} ± {row.gain.error:.5f}"
    ratio = f"{row.other_as_run / row.as_run:.3f}"
    return (*own, row.other, f"{row.other_as_run:.5f}", f"{row.other_top1:.4f}", difference, ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("variants", nargs="*", metavar="variant", help=f"of {', '.join(VARIANTS)}; all by default")
    parser.add_argument("--heldout", type=Path, default=TEXTS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--texts")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"there is no variant {', '.join(sorted(unknown))}: use {', '.join(VARIANTS)}")
    stated = {"texts": options.texts and f"[{options.texts}]", "samples": options.samples, "length": options.length}
    overrides = [f"calibration.{key}={value}" for key, value in stated.items() if value]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.model, options.heldout, options.tokens, overrides, Path(folder))
        rows = []
        for variant in options.variants or VARIANTS:
            rows.append(bench.row(variant))
            print(_cells(rows[-1]), file=sys.stderr, flush=True)
    over = f"{bench.windows.tokens:,} tokens in {len(bench.windows.ids)} windows"
    print(f"{over}; the source's perplexity on them is {rows[0].source_perplexity:.1f}\n\n{table(rows)}")
    if options.json:
        report: dict[str, Any] = {"tokens": bench.windows.tokens, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
