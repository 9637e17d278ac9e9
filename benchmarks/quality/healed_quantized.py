"""What pruning and quantizing cost together, and what healing and compensation give back of it, beside either alone.

    python -m benchmarks.quality.healed_quantized [MODEL] [--keep 6] [--texts FOLDER] [--samples 64] [--seed 0]
                                                  [--heldout FOLDER] [--variant gguf-q4_k_m]

MODEL (the bundled one by default) as it is, pruned, and pruned and healed; each in BF16, and quantized to nearest and
with errors compensated, on statistics of its own and the same texts (`samples` windows of 512 tokens). Prints the KL
per token of all nine from the original's distributions, in nats, on the held-out texts that belong to the
calibration's (--heldout) and on the built-in ones; then what the two bring together, beside what each brings. Standard
errors are those of means over windows (benchmarks.quality.quality). Nothing is left behind.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.quality.quality import gain, shown
from calibration.calibrate import calibrate
from calibration.texts.tokens import ordinary_ids, token_batches
from cli.results.verdicts import artifact_of
from exporters.export.planning import needs_statistics
from exporters.export.run import export
from pruning.anatomy import dissect
from pruning.choosing.make_plan import Request, make_plan
from pruning.healing.text import Text
from pruning.run import prune
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.recipes.text_source import BUILTIN
from sixfold.texts.held_out_text import TEXTS, Windows, held_out
from verification.divergence.divergence import Reference, reference_of, scored
from verification.measure import runs_of

ROOT = Path(__file__).parents[2]
MODELS = "original", "pruned", "healed"
PRECISIONS = "BF16", "nearest", "compensated"

Runs = Mapping[tuple[str, str], torch.Tensor]
"""By model and precision: KL of every token from the original's BF16, float64 [tokens]."""


def made(source: Source, keep: int, recipe: Recipe, out: Path) -> dict[str, Source]:
    """By name of MODELS: the source, and what is left of it, plain and healed, in folders of `out`."""
    anatomy, profile, tokenizer = dissect(source), recipe.calibration, load_tokenizer(source.checkpoint.folder)
    folder = Workspace(out, source.checkpoint.name).calibration(profile)
    statistics = calibrate(source, profile, folder, progress=unseen).statistics
    plan = make_plan(source, anatomy, Request(keep), statistics)
    tokens = token_batches(profile, tokenizer)
    healing = {"profile": profile.model_dump(mode="json"), "ids_sha256": tokens.record["ids_sha256"]}
    text = Text(tokens.ids, ordinary_ids(tokenizer))
    plain = prune(source, anatomy, plan, "drop", out / "pruned", threads=2, progress=unseen)
    healed = prune(
        source, anatomy, replace(plan, healing=healing), "drop", out / "healed", threads=2, progress=unseen, text=text
    )
    return {"original": source, "pruned": open_source(plain.folder), "healed": open_source(healed.folder)}


def divergence(
    source: Source, recipe: Recipe, out: Path, texts: Mapping[str, Windows], references: Mapping[str, Reference]
) -> dict[str, torch.Tensor]:
    """By name of the texts: KL of every token of what the recipe makes of the source, weights alone."""
    workspace, statistics = Workspace(out, source.checkpoint.name), None
    if needs_statistics(recipe):
        folder = workspace.calibration(recipe.calibration)
        statistics = calibrate(source, recipe.calibration, folder, progress=unseen).statistics
    tokens = partial(_tokens, source, recipe)
    result = export(source, recipe, workspace, statistics, threads=2, progress=unseen, tokens=tokens)
    weights, _ = runs_of(artifact_of(result.folder, result.manifest), source)
    # Pruning leaves the last norm and the head: the original's last hidden states give its distributions here too.
    return {name: scored(source, weights, {}, windows, references[name], unseen).kl for name, windows in texts.items()}


def _tokens(source: Source, recipe: Recipe) -> torch.Tensor:
    return token_batches(recipe.calibration, load_tokenizer(source.checkpoint.folder)).ids


def table(runs: Runs, lengths: list[int]) -> str:
    lines = ["| | BF16 | quantized to nearest | compensated |", "|---|---:|---:|---:|"]
    for model in MODELS:
        cells = []
        for precision in PRECISIONS:
            found = gain(torch.zeros_like(runs[model, precision]), runs[model, precision], lengths)
            cells.append(f"{found.mean:.4f} ± {found.error:.4f}")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def together(runs: Runs, lengths: list[int]) -> str:
    """What healing and compensation bring together, beside what each brings."""
    worst, best = runs["pruned", "nearest"], runs["healed", "compensated"]
    both = worst - best
    in_the_other = (worst - runs["healed", "nearest"]) + (worst - runs["pruned", "compensated"])
    alone = (runs["pruned", "BF16"] - runs["healed", "BF16"]) + (
        runs["original", "nearest"] - runs["original", "compensated"]
    )
    damages = runs["pruned", "BF16"] + runs["original", "nearest"]
    less = {
        "both together": (best, worst),
        "each in the presence of the other's damage, summed": (worst - in_the_other, worst),
        "each by itself, summed": (worst - alone, worst),
        "both together, beyond each in the presence of the other's damage": (in_the_other, both),
        "both together, beyond each by itself": (alone, both),
        "healed and compensated, below the sum of the damages of pruning and of rounding": (best, damages),
    }
    rows = [f"| {what} | {shown(gain(after, before, lengths))} |" for what, (after, before) in less.items()]
    return "\n".join(["| KL less | |", "|---|---:|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(ROOT / "demo" / "minimax-m2-4.6m"))
    parser.add_argument("--keep", type=int, default=6)
    parser.add_argument("--texts", default=BUILTIN)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout", type=Path, default=None)
    parser.add_argument("--variant", default="gguf-q4_k_m")
    options = parser.parse_args()
    stated = {"texts": f"[{options.texts}]", "samples": options.samples, "seed": options.seed, "length": 512}
    calibrated = [f"calibration.{key}={value}" for key, value in stated.items()]
    (plain,) = load_recipes("bf16")
    recipes = {"BF16": plain}
    for rounding in PRECISIONS[1:]:
        (recipe,) = load_recipes(options.variant, (*calibrated, f"rounding={rounding}"))
        recipes[rounding] = recipe.model_copy(update={"suffix": f"{recipe.suffix}-{rounding}", "name": rounding})
    source = open_source(options.model)
    tokenizer = load_tokenizer(source.checkpoint.folder)
    texts = {} if options.heldout is None else {options.heldout.name: held_out(tokenizer, options.heldout)}
    texts["built-in"] = held_out(tokenizer, TEXTS)
    runs: dict[str, dict[tuple[str, str], torch.Tensor]] = {name: {} for name in texts}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        references = {name: reference_of(source, windows, out / "runs", unseen) for name, windows in texts.items()}
        for model, of in made(source, options.keep, recipes["nearest"], out).items():
            for precision, recipe in recipes.items():
                print(f"{model}, {precision}", flush=True)
                for name, kl in divergence(of, recipe, out, texts, references).items():
                    runs[name][model, precision] = kl
    for name, windows in texts.items():
        lengths = [len(window) for window in windows.ids]
        print(f"\n{name} texts, {windows.tokens:,} tokens, {options.keep} experts kept, {options.variant}:\n")
        print(f"{table(runs[name], lengths)}\n\n{together(runs[name], lengths)}")


if __name__ == "__main__":
    main()
