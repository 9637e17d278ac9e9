"""What the relative gate lets pass and what it stops: sound artifacts of a model, and damages that only answers show.

Usage: python -m benchmarks.quality.gates MODEL [--out FOLDER] [--every N] [--damages N]

Makes the ten formats, and prints of each: mean KL as run, the KL of plain rounding to the same format, their ratio,
and the largest such ratio of errors of hidden states behind a layer. Then each format is run with N damages of
every kind, made where the weights are read, so that no other check sees them: two Linears of one shape exchanged
(experts of a layer where there are any), a Linear under the scale of another (a factor of 1.5), its rows rolled by one,
zeros in its place. Printed is how many of them the gate stops. --every: of the held-out windows, every so many are
read.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cli.main import run
from cli.results.verdicts import artifact_of
from sixfold.artifact.manifest import variant_manifests
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.architecture import Linear
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from verification.divergence.divergence import Divergence, Reference, Score, reference_of, scored
from verification.divergence.plain_run import plain_score
from verification.gates import check_gates
from verification.measure import plain_rules, runs_of
from verification.reading.weights import CodedWeights, Wrapped

RATIO = 1.25
"""The shipped recipes' max_kl_ratio."""

Read = Callable[[str], torch.Tensor]
Damaged = Callable[[Read], torch.Tensor]


class Changed(Wrapped):
    """An artifact's weights, of which some are read otherwise."""

    def __init__(self, weights: CodedWeights, changes: dict[str, Damaged]) -> None:
        super().__init__(weights)
        self._changes = changes

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        change = self._changes.get(name)
        if change is None:
            return super().read(name, start, stop)
        return change(lambda other: self._weights.read(other))[start:stop]


def damages(linear: Linear, other: Linear) -> dict[str, dict[str, Damaged]]:
    """Kind -> weight -> how it is read instead."""
    one, two = linear.weight, other.weight
    return {
        "exchanged": {one: lambda read: read(two), two: lambda read: read(one)},
        "scale of another": {one: lambda read: 1.5 * read(one)},
        "rows rolled": {one: lambda read: read(one).roll(1, 0)},
        "zeros": {one: lambda read: torch.zeros_like(read(one))},
    }


def pairs(source: Source, weights: CodedWeights, count: int) -> list[tuple[Linear, Linear]]:
    """Quantized Linears with another of the same kind: an expert's with that of another expert of its layer."""
    held = set(weights.names())
    linears = [li for li in source.architecture.linears if li.weight in held and weights.encoding(li.weight)]
    linears = [li for li in linears if li.layer is not None]
    experts = [li for li in linears if li.expert is not None] or linears
    generator = random.Random(0)
    found = []
    for linear in generator.sample(experts, min(count, len(experts))):
        same = [o for o in experts if o.part == linear.part and o.role == linear.role and o.name != linear.name]
        same = [o for o in same if o.in_features == linear.in_features and o.out_features == linear.out_features]
        near = [o for o in same if o.layer == linear.layer] or same
        if near:
            found.append((linear, generator.choice(near)))
    return found


def worst_layer(score: Score, plain: Score) -> float:
    """Largest ratio of errors behind a layer, of mean relative errors; 1 where neither errs."""
    ratios = [a / b for a, b in zip(score.layers, plain.layers, strict=True) if b > 1e-4]
    return max(ratios, default=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--damages", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=["all-formats"])
    given = parser.parse_args()
    source = open_source(given.model)
    run(["export", str(given.model), *given.formats, "--out", str(given.out), "--no-verify"])
    whole = held_out(load_tokenizer(given.model))
    windows = Windows(whole.ids[:: given.every], whole.domains[:: given.every], f"{whole.digest}/{given.every}")
    cache = given.out / source.checkpoint.name / "verification-reference"
    reference = reference_of(source, windows, cache, unseen)
    say(f"{source.checkpoint.name}: {windows.tokens} tokens\n")
    say("| variant | KL as run | plain rounding | ratio | worst layer | stopped |" + " damages stopped |")
    say("|---|---:|---:|---:|---:|---|---|")
    for path, manifest in variant_manifests(given.out / source.checkpoint.name):
        artifact = artifact_of(path.parent, path.name)
        weights, runs = runs_of(artifact, source)
        rules = runs.get("engine", runs["weights"])
        plain = plain_score(source, weights, plain_rules(artifact, source), windows, reference, cache, unseen)
        score = scored(source, weights, rules, windows, reference, unseen).score
        stopped = tally(source, weights, rules, plain, windows, reference, given.damages)
        ratio = score.mean_kl / plain.mean_kl if plain.mean_kl else 1.0
        say(
            f"| `{manifest['variant']}` | {score.mean_kl:.5f} | {plain.mean_kl:.5f} | {ratio:.2f} |"
            f" {worst_layer(score, plain):.2f} | {'yes' if fails(score, plain) else 'no'} | {stopped} |"
        )


def tally(
    source: Source,
    weights: CodedWeights,
    rules: object,
    plain: Score,
    windows: Windows,
    reference: Reference,
    count: int,
) -> str:
    found: dict[str, list[bool]] = {}
    for linear, other in pairs(source, weights, count):
        for kind, changes in damages(linear, other).items():
            damaged = Changed(weights, changes)
            score = scored(source, damaged, rules, windows, reference, unseen).score  # type: ignore[arg-type]
            found.setdefault(kind, []).append(fails(score, plain))
    return ", ".join(f"{kind} {sum(each)} of {len(each)}" for kind, each in found.items())


def fails(score: Score, plain: Score) -> bool:
    divergence = Divergence({"weights": score}, 0, 0, plain)
    return any(check_gates(divergence, {"max_kl_ratio": RATIO}))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
