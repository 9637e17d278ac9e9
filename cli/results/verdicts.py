"""What verification found for all variants of a model: the table that `export` and `verify` end with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.terminal import heading, print_filled
from sixfold.sizes import size

if TYPE_CHECKING:
    from sixfold.artifact.verification_record import Verdict


@dataclass(frozen=True)
class Row:
    """variant: name of the recipe. nbytes: its size (artifact_bytes)."""

    variant: str
    path: Path
    nbytes: int
    verdict: "Verdict"


def rows_in(folder: Path) -> list[tuple[str, Path, int]]:
    """(variant, artifact, bytes) of everything in a model's workspace that a recipe made, largest first.

    Raises SixfoldError as `variant_manifests` does.
    """
    from sixfold.artifact.manifest import artifact_bytes, variant_manifests

    found = []
    for path, manifest in variant_manifests(folder):
        nbytes = artifact_bytes(manifest["files"])
        found.append((manifest["variant"], artifact_of(path.parent, path.name), nbytes))
    return sorted(found, key=lambda row: (-row[2], row[0]))


def artifact_of(folder: Path, manifest: str) -> Path:
    """The folder, or the GGUF file in it that the manifest describes."""
    return folder if manifest == "manifest.json" else folder / manifest.removesuffix(".manifest.json")


def print_verdicts(rows: Sequence[Row]) -> None:
    if not rows:
        return
    tokens = max(row.verdict.tokens for row in rows)
    over = f" (mean KL in nats over {tokens:,} tokens of held-out text, float32)" if tokens else ""
    heading(f"Divergence from the source{over}")
    since = any(row.verdict.since_original for row in rows)
    head = ("variant", "size", "KL, weights alone", "KL as run", "max KL", "top-1 as run", "min top-1", "verdict")
    unpruned = ("KL from unpruned", "top-1 from unpruned")
    print_filled((*head, *unpruned) if since else head, [_cells(row, since=since) for row in rows])
    for row in rows:
        if row.verdict.unmeasured and row.verdict.passed:
            click.echo(f"  {row.variant}: {row.verdict.unmeasured}")


def failures(rows: Sequence[Row]) -> list[str]:
    """One sentence for each variant that failed."""
    return [f"{row.variant} failed: {_first(row.verdict.failures)}" for row in rows if not row.verdict.passed]


def as_data(row: Row) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "variant": row.variant,
        "artifact": str(row.path),
        "bytes": row.nbytes,
        "passed": verdict.passed,
        "failures": list(verdict.failures),
        "unmeasured": verdict.unmeasured,
        "weights": verdict.weights,
        "as_run": verdict.as_run,
        "since_original": verdict.since_original,
        "gates": dict(verdict.gates),
        "allowed": dict(verdict.allowed),
    }


def _cells(row: Row, *, since: bool) -> tuple[str, ...]:
    verdict = row.verdict
    before = verdict.since_original
    return (
        row.variant,
        size(row.nbytes),
        _figure(verdict.weights, "mean_kl", 5),
        _figure(verdict.as_run, "mean_kl", 5),
        _gate(verdict.allowed, "max_mean_kl", 5),
        _figure(verdict.as_run, "top1", 4),
        _gate(verdict.allowed, "min_top1", 4),
        "not measured" if verdict.passed and verdict.unmeasured else "passed" if verdict.passed else "failed",
        *((_figure(before, "mean_kl", 5), _figure(before, "top1", 4)) if since else ()),
    )


def _figure(score: Mapping[str, Any] | None, key: str, digits: int) -> str:
    return "-" if score is None else f"{score[key]:.{digits}f}"


def _gate(gates: Mapping[str, float | None], key: str, digits: int) -> str:
    gate = gates.get(key)
    return "-" if gate is None else f"{gate:.{digits}f}"


def _first(failures: Sequence[str]) -> str:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{failures[0]}{more}"
