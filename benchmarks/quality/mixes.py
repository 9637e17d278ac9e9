"""What choosing each tensor's type brings: GGUF mixes against llama.cpp's presets, at the bytes of the presets' files,
and NVFP4 with FP8 against NVFP4.

    python -m benchmarks.quality.mixes MODEL [PRESET]... [--heldout FOLDER] [--tokens 1024] [--texts PATH]
                                       [--out FOLDER] [--json FILE]

For every preset (by default q3_k_m, iq4_xs, q4_k_m and q6_k) four files are made and measured over held-out texts, the
weights alone in float32: the preset rounded to nearest with an importance matrix, which is what llama-quantize writes;
the preset with errors compensated; and gguf-auto with the first file's bytes as its budget, in both roundings. `less`
is by how much the mean KL is below the first file's, with its standard error from windows
(benchmarks/quality/quality.py), and `worst domain` the least such share of any domain.

The preset nvfp4, which is none of the default ones, stands for two: nvfp4 and nvfp4-auto, as they are shipped.

--heldout, --tokens and --texts as in benchmarks.quality.quality. --out keeps what was made, and a later run goes on
from it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality.quality import BUILTIN, Bench, Run, domain_gains, gain
from exporters.export.planning import plan_of
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.texts.held_out_text import TOKENS, Windows

PRESETS = ("q3_k_m", "iq4_xs", "q4_k_m", "q6_k")
FOLDERS = ("nvfp4", "nvfp4-auto")


@dataclass(frozen=True)
class Line:
    """One file over one set of texts. kl: of weights alone, mean. less, error: of that against the first file's, as a
    part of it. worst, worst_error: the least such part of any domain and its error; and which."""

    preset: str
    what: str
    texts: str
    nbytes: int
    kl: float
    as_run: float
    less: float
    error: float
    worst: float
    worst_error: float
    domain: str


def recipes_for(bench: Bench, preset: str) -> dict[str, Recipe]:
    """What is made, by what a reader calls it; the first is what the others are held against."""
    if preset == FOLDERS[0]:
        return {name: recipe for name in FOLDERS for recipe in load_recipes(name, bench.overrides)}
    found = {}
    for rounding in ("nearest", "compensated"):
        (of_preset,) = load_recipes(f"gguf-{preset}", (*bench.overrides, f"rounding={rounding}"))
        found[f"{preset.upper()}, {rounding}"] = _apart(of_preset, preset, rounding)
    plan = plan_of(bench.source, next(iter(found.values())), None)
    assert plan is not None  # GGUF is planned
    budget = f"budget.bytes={sum(file.nbytes for file in plan.files)}"
    for rounding in ("nearest", "compensated"):
        (mix,) = load_recipes("gguf-auto", (*bench.overrides, f"rounding={rounding}", budget))
        found[f"mix, {rounding}"] = _apart(mix, f"{preset}-mix", rounding)
    return found


def _apart(recipe: Recipe, what: str, rounding: str) -> Recipe:
    name = f"{what}-{rounding}"
    return recipe.model_copy(update={"name": name, "suffix": name.upper()})


def lines_of(bench: Bench, preset: str) -> list[Line]:
    lines = []
    first: dict[str, Run] = {}
    for what, recipe in recipes_for(bench, preset).items():
        runs = bench.run(recipe, checked=False)
        first = first or runs
        lines += [_line(preset, what, name, runs[name], first[name], windows) for name, windows in bench.texts.items()]
        print(*(cells(line) for line in lines[-len(bench.texts) :]), sep="\n", file=sys.stderr)
    return lines


def _line(preset: str, what: str, texts: str, run: Run, first: Run, windows: Windows) -> Line:
    base = float(first.weights.mean())
    found = gain(run.weights, first.weights, [len(window) for window in windows.ids])
    gains = domain_gains(run.weights, first.weights, windows)
    bases = {domain: each.mean + _mean(run, windows, domain) for domain, each in gains.items()}
    worst = min(gains, key=lambda domain: gains[domain].mean / bases[domain])
    least = gains[worst].mean / bases[worst], gains[worst].error / bases[worst]
    kl = float(run.weights.mean())
    as_run = float(run.as_run.mean())
    return Line(preset, what, texts, run.nbytes, kl, as_run, found.mean / base, found.error / base, *least, worst)


def _mean(run: Run, windows: Windows, domain: str) -> float:
    pieces = run.weights.split([len(window) for window in windows.ids])
    of_domain = [piece for piece, where in zip(pieces, windows.domains, strict=True) if where == domain]
    return float(sum(piece.sum() for piece in of_domain) / sum(len(piece) for piece in of_domain))


def cells(line: Line) -> str:
    less = f"{line.less:.1%} ± {line.error:.1%} | {line.worst:.1%} ± {line.worst_error:.1%} ({line.domain})"
    return f"| {line.what} | {line.texts} | {line.nbytes:,} | {line.kl:.5f} | {less} | {line.as_run:.5f} |"


def table(lines: Sequence[Line]) -> str:
    head = (
        "| file | texts | bytes | KL, weights alone | less | worst domain | KL as run |\n"
        "|---|---|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *map(cells, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("presets", nargs="*", metavar="preset", help=f"of {', '.join(PRESETS)}, the default, and nvfp4")
    parser.add_argument("--heldout", type=Path, help=f"beside the texts called {BUILTIN}")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--texts")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.presets) - {*PRESETS, FOLDERS[0]}:
        parser.error(f"there is no preset {', '.join(sorted(unknown))}: use {', '.join(PRESETS)}")
    overrides = [f"calibration.texts=[{options.texts}]"] if options.texts else []
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        bench = Bench(options.model, options.heldout, options.tokens, overrides, out, only_rounding=True)
        lines = [line for preset in options.presets or PRESETS for line in lines_of(bench, preset)]
    print(table(lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=2))


if __name__ == "__main__":
    main()
