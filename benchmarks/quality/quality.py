"""What every variant of a model costs, and what its technique brings: each against the same bytes without it.

    python -m benchmarks.quality.quality MODEL [VARIANT]... [--heldout FOLDER] [--tokens 1024] [--texts PATH]
                                         [--samples 64] [--length 512] [--only-rounding | --peers] [--json FILE]

Every shipped variant is made, read by independent code and run in float32 over held-out texts, with the weights alone
and with inputs rounded as its engine rounds them. So are its others:

    all but gguf-q8_0               rounded to nearest (and searched and weighted as before), in place of compensated
    gguf-q3_k_m, -q4_k_m, -iq4_xs   to nearest without an importance matrix
    awq                             to nearest without a search: the same layout, no scales moved, no narrower ranges
    nvfp4                           nvfp4-gb10: the same format, but inputs in four bits too

KL is the mean per token in nats, from the source; with inputs alone it is that of the source's own weights. `gain` is
the other's KL minus the variant's, both of weights alone or both as run, over the same tokens, with its standard error:
windows are drawn independently, tokens within one are not, so the error is that of a mean over windows (a ratio
estimate, as windows differ in length). This many tokens cannot show a gain that is within two standard errors of zero.

--heldout names a folder of other texts (its subfolders, or its files where it has none, are domains), of which at most
--tokens of each file are read; the built-in ones, foreign to a model that was trained on others, are measured besides.
--texts names what calibration reads. --only-rounding leaves out all others but nearest. --peers adds what others make
on the same tokens, routed tokens alone where they calibrate: llmcompressor's rounding, GPTQModifier, AWQModifier (with
the router in its mapping) and AutoRoundModifier, where auto-round is installed. llama-quantize needs no run of its own:
a GGUF rounded to nearest is, byte for byte, what it makes with this importance matrix. A 25M model takes half an hour
on two cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from calibration.calibrate import calibrate
from calibration.texts.tokens import token_batches
from cli.results.verdicts import artifact_of
from exporters.export.planning import needs_statistics
from exporters.export.run import export
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.sizes import size
from sixfold.texts.held_out_text import TEXTS, TOKENS, Windows, held_out
from verification.divergence.activations import Rule
from verification.divergence.divergence import Reference, reference_of, scored
from verification.divergence.walk import device
from verification.measure import runs_of
from verification.reading.held_source import HeldSource, SourceWeights
from verification.verify import verify

NEAREST = "to nearest"
PLAIN_GGUF = ("gguf-q3_k_m", "gguf-q4_k_m", "gguf-iq4_xs")
VARIANTS = (
    "fp8", "nvfp4", "nvfp4-gb10", "awq", "gguf-q8_0", "gguf-q6_k", "gguf-q4_k_m", "gguf-iq4_xs", "gguf-q3_k_m"
)  # fmt: skip
BUILTIN = "built-in"
PEER = "llmcompressor"


@dataclass(frozen=True)
class Run:
    """Of one artifact over one set of texts. weights, as_run: KL of every token, float64 [tokens]. inputs: mean KL of
    the source's weights with inputs rounded as for the artifact; 0 where its engine rounds none, or unasked."""

    nbytes: int
    weights: torch.Tensor
    as_run: torch.Tensor
    inputs: float
    top1: float
    source_perplexity: float


@dataclass(frozen=True)
class Gain:
    """Mean per token of the other's KL less the variant's, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Compared:
    """A variant beside one of its others, over one set of texts. gain: weights alone; gain_as_run: as engines run both.
    domains: gains of weights alone."""

    other: str
    weights: float
    as_run: float
    gain: Gain
    gain_as_run: Gain
    domains: Mapping[str, Gain]


@dataclass(frozen=True)
class Row:
    """KL means of a variant over one set of texts, and its others."""

    variant: str
    texts: str
    nbytes: int
    weights: float
    as_run: float
    inputs: float
    top1: float
    source_perplexity: float
    others: tuple[Compared, ...]


def peers_of(variant: str, overrides: Sequence[str]) -> dict[str, Recipe]:
    """What llmcompressor makes for the same engines, by how; at the same bits a weight."""
    schemes = {"fp8": "FP8_DYNAMIC", "nvfp4": "NVFP4A16", "nvfp4-gb10": "NVFP4", "awq": "W4A16_ASYM"}
    if variant not in schemes:
        return {}
    scheme = {"targets": ["Linear"], "scheme": schemes[variant]}
    ways: dict[str, dict[str, Any]] = {"QuantizationModifier": {"QuantizationModifier": scheme}}
    if variant != "fp8":
        ways["GPTQModifier"] = {"GPTQModifier": scheme}
    if variant == "awq":
        ways["AWQModifier"] = {"AWQModifier": {"n_grid": 20}, "QuantizationModifier": scheme}
    if variant in ("awq", "nvfp4") and find_spec("auto_round") is not None:
        ways["AutoRoundModifier"] = {"AutoRoundModifier": {**scheme, "iters": 200}}
    (own,) = load_recipes(variant, (*overrides, "rounding=nearest"))
    return {
        f"{PEER} {name}": _apart(
            own,
            name.lower(),
            exporter=PEER,
            scheme=schemes[variant],
            options={
                "recipe": {"quantization_stage": {"quantization_modifiers": modifiers}},
                "moe_calibrate_all_experts": False,
            },
        )
        for name, modifiers in ways.items()
    }


def others_of(variant: str, overrides: Sequence[str], *, only_rounding: bool, peers: bool = False) -> dict[str, Recipe]:
    """What the variant is compared with, by what differs."""
    if variant == "gguf-q8_0":
        return {}
    (nearest,) = load_recipes(variant, (*overrides, "rounding=nearest"))
    found = {NEAREST: _apart(nearest, "nearest")}
    if only_rounding:
        return found
    if peers:
        return found | peers_of(variant, overrides)
    if variant == "nvfp4":
        (found["inputs in NVFP4 too"],) = load_recipes("nvfp4-gb10", overrides)
    if variant == "awq":
        found[f"{NEAREST}, no search"] = _apart(nearest, "plain", exporter="benchmarks.quality.round_to_nearest")
    if variant in PLAIN_GGUF:
        found[f"{NEAREST}, no importance matrix"] = _apart(
            nearest, "plain", options={**nearest.options, "imatrix": False}
        )
    return found


def _apart(recipe: Recipe, how: str, **changed: Any) -> Recipe:
    names = {"name": f"{recipe.name}-{how}", "suffix": f"{recipe.suffix}-{how.upper()}"}
    return recipe.model_copy(update={**names, **changed})


def gain(variant: torch.Tensor, other: torch.Tensor, lengths: Sequence[int]) -> Gain:
    """variant, other: KL of every token, float64 [tokens]. lengths: of the windows, in order."""
    less = (other - variant).split(list(lengths))
    sums = torch.stack([part.sum() for part in less])
    sizes = torch.tensor([len(part) for part in less], dtype=torch.float64)
    mean = float(sums.sum() / sizes.sum())
    count = len(less)
    if count < 2:
        return Gain(mean, float("nan"))
    spread = (sums - mean * sizes).pow(2).sum() * count / (count - 1)
    return Gain(mean, float(spread.sqrt() / sizes.sum()))


def domain_gains(variant: torch.Tensor, other: torch.Tensor, windows: Windows) -> dict[str, Gain]:
    lengths = [len(window) for window in windows.ids]
    parts = list(zip(variant.split(lengths), other.split(lengths), windows.domains, strict=True))
    found = {}
    for domain in windows.by_domain:
        of_domain = [(own, others) for own, others, where in parts if where == domain]
        own, others = (torch.cat(side) for side in zip(*of_domain, strict=True))
        found[domain] = gain(own, others, [len(part) for part, _ in of_domain])
    return found


class Bench:
    def __init__(
        self,
        model: str,
        heldout: Path | None,
        tokens: int,
        overrides: Sequence[str],
        out: Path,
        *,
        only_rounding: bool,
        peers: bool = False,
    ) -> None:
        self.source = open_source(model)
        checkpoint = self.source.checkpoint
        self.workspace = Workspace(out, checkpoint.name)
        tokenizer = load_tokenizer(checkpoint.folder)
        self.texts = {heldout.name: held_out(tokenizer, heldout, tokens)} if heldout is not None else {}
        self.texts[BUILTIN] = held_out(tokenizer, TEXTS, tokens)
        self.overrides = overrides
        self.only_rounding, self.peers = only_rounding, peers
        self.references: dict[str, Reference] = {
            name: reference_of(self.source, windows, out / "reference", unseen) for name, windows in self.texts.items()
        }

    def rows(self, variant: str) -> list[Row]:
        """One for each set of texts."""
        (recipe,) = load_recipes(variant, (*self.overrides, "rounding=compensated"))
        own = self.run(recipe, inputs_too=True)
        others = others_of(variant, self.overrides, only_rounding=self.only_rounding, peers=self.peers)
        made: dict[str, dict[str, Run]] = {}
        for label, other in others.items():
            try:
                made[label] = self.run(other)
            except SixfoldError as error:
                if other.exporter != PEER:
                    raise
                print(f"{label}: {error}", file=sys.stderr)
        return [self._row(variant, name, own[name], {k: runs[name] for k, runs in made.items()}) for name in self.texts]

    def _row(self, variant: str, texts: str, own: Run, others: Mapping[str, Run]) -> Row:
        windows = self.texts[texts]
        lengths = [len(window) for window in windows.ids]
        compared = tuple(
            Compared(
                label,
                float(other.weights.mean()),
                float(other.as_run.mean()),
                gain(own.weights, other.weights, lengths),
                gain(own.as_run, other.as_run, lengths),
                domain_gains(own.weights, other.weights, windows),
            )
            for label, other in others.items()
        )
        means = float(own.weights.mean()), float(own.as_run.mean()), own.inputs
        return Row(variant, texts, own.nbytes, *means, own.top1, own.source_perplexity, compared)

    def _tokens(self, recipe: Recipe) -> torch.Tensor:
        return token_batches(recipe.calibration, load_tokenizer(self.source.checkpoint.folder)).ids

    def run(self, recipe: Recipe, *, checked: bool = True, inputs_too: bool = False) -> dict[str, Run]:
        """By name of the texts. checked: whether the artifact is verified before it is measured. inputs_too: whether
        inputs alone are rounded besides."""
        statistics = None
        if needs_statistics(recipe):
            folder = self.workspace.calibration(recipe.calibration)
            statistics = calibrate(self.source, recipe.calibration, folder, progress=unseen).statistics
        tokens = partial(self._tokens, recipe)
        made = export(self.source, recipe, self.workspace, statistics, threads=2, progress=unseen, tokens=tokens)
        path = artifact_of(made.folder, made.manifest)
        # A peer may carry errors farther than our limits allow.
        if checked and recipe.exporter != PEER and not (found := verify(path, self.source, unseen)).passed:
            raise RuntimeError(f"{recipe.name} is not sound: {found.failures[0]}")
        weights, runs = runs_of(path, self.source)
        runs_by_text = {}
        for name, windows in self.texts.items():
            alone, engine = (
                scored(self.source, weights, runs[how], windows, self.references[name], unseen) if how in runs else None
                for how in ("weights", "engine")
            )
            assert alone is not None  # always among the runs
            held, inputs = engine or alone, 0.0
            if engine is not None and inputs_too:
                inputs = self._inputs_alone(runs["engine"], name)
            source_perplexity = alone.score.source_perplexity
            runs_by_text[name] = Run(made.nbytes, alone.kl, held.kl, inputs, held.score.top1, source_perplexity)
        return runs_by_text

    def _inputs_alone(self, rules: Mapping[str, Rule], texts: str) -> float:
        own = SourceWeights(HeldSource(self.source, device()))
        return scored(self.source, own, rules, self.texts[texts], self.references[texts], unseen).score.mean_kl


def table(rows: Sequence[Row]) -> str:
    head = (
        "| variant | size | KL, weights alone | KL, inputs alone | KL as run | top-1 | against | its KL, weights alone"
        " | gain | its KL as run | gain |\n|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(f"| {' | '.join(cells)} |" for row in rows for cells in _lines(row))])


def _lines(row: Row) -> list[tuple[str, ...]]:
    kl = (f"{row.weights:.5f}", f"{row.inputs:.5f}" if row.inputs else "-", f"{row.as_run:.5f}")
    own = (f"`{row.variant}`", size(row.nbytes), *kl, f"{row.top1:.4f}")
    found = [
        (*own, other.other, f"{other.weights:.5f}", shown(other.gain), f"{other.as_run:.5f}", shown(other.gain_as_run))
        for other in row.others
    ]
    return found or [(*own, "", "", "", "", "")]


def domain_table(rows: Sequence[Row]) -> str:
    """What compensating brings over nearest in every domain, weights alone."""
    gains = {row.variant: other.domains for row in rows for other in row.others if other.other == NEAREST}
    head = f"| domain | {' | '.join(f'`{variant}`' for variant in gains)} |\n|---|{'---:|' * len(gains)}"
    domains = next(iter(gains.values()), {})
    return "\n".join(
        [head, *(f"| {domain} | {' | '.join(shown(of[domain]) for of in gains.values())} |" for domain in domains)]
    )


def shown(found: Gain) -> str:
    return f"{found.mean:+.5f} ± {found.error:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("variants", nargs="*", metavar="variant", help=f"of {', '.join(VARIANTS)}; all by default")
    parser.add_argument("--heldout", type=Path)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--texts")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--length", type=int)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only-rounding", action="store_true")
    which.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"there is no variant {', '.join(sorted(unknown))}: use {', '.join(VARIANTS)}")
    stated = {"texts": options.texts and f"[{options.texts}]", "samples": options.samples, "length": options.length}
    overrides = [f"calibration.{key}={value}" for key, value in stated.items() if value]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            options.model,
            options.heldout,
            options.tokens,
            overrides,
            Path(folder),
            only_rounding=options.only_rounding,
            peers=options.peers,
        )
        for variant in options.variants or VARIANTS:
            rows += bench.rows(variant)
            print(*(line for row in rows[-len(bench.texts) :] for line in _lines(row)), sep="\n", file=sys.stderr)
    for name, windows in bench.texts.items():
        here = [row for row in rows if row.texts == name]
        over = f"{windows.tokens:,} tokens in {len(windows.ids)} windows"
        print(f"{name} texts, {over}; the source's perplexity on them is {here[0].source_perplexity:.1f}\n")
        print(f"{table(here)}\n\nGain over rounding {NEAREST}, weights alone, by domain:\n\n{domain_table(here)}\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
