"""sixfold verify: is an artifact sound, and how far are its weights from the source's."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands.card import render_cards
from cli.options import Model, json_option, out_option, paths
from cli.results.verdicts import Row, failures, print_verdicts, rows_in
from cli.results.verdicts import as_data as row_as_data
from cli.run_log import logged
from cli.terminal import heading, print_json, print_table, progress, share
from sixfold.errors import GateError

if TYPE_CHECKING:
    from sixfold.model.source import Source
    from verification.divergence.divergence import Divergence
    from verification.finding import Finding
    from verification.result import Verification
    from verification.smoke.smoke_test import Smoke

_SHOWN = 5
_ANSWER = 40
_RUNS = {
    "weights": "weights alone",
    "engine": "inputs rounded as the engine does",
    "engine-collapsed": "the same, one input scale per layer",
    "engine-16-bit-cache": "the same, cached in 16 bits",
}


@click.command(
    short_help="Check artifacts of any tool, and measure how far they diverge.",
    epilog="Example: sixfold verify artifacts/m/m-FP8 --against demo/minimax-m2-4.6m",
)
@click.argument("artifact", metavar="[FOLDER|FILE.gguf]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--against",
    default="",
    metavar="MODEL",
    shell_complete=paths,
    help="The checkpoint that it was made from: folder or hub id.",
)
@click.option("--revision", default="", metavar="TEXT", help="Branch, tag or commit of a hub id.")
@click.option("--name", default="", metavar="TEXT", help="Name of MODEL's outputs, if they were given one.")
@out_option
@json_option
def command(artifact: Path | None, against: str, revision: str, name: str, out: Path, as_json: bool) -> int:
    """Check an artifact, whatever tool made it, and write verification.json beside it.

    Names, shapes, scales, configuration and files are checked against what engines expect. With --against, every tensor
    is dequantized and compared with the source's. If that passes, both models are run over held-out text and the gates
    of the artifact's recipe are applied. Exit code 3 if a check or a gate fails.

    Without an artifact, verifies every variant of MODEL under --out that has no result yet, and prints one table.
    """
    from sixfold.checkpoint.location import check_artifact, check_location
    from sixfold.errors import UsageError

    # Before anything that takes long to import.
    if artifact is not None:
        check_artifact(artifact)
    if against:
        check_location(against)
    source = Model(against, revision, name, {}).open() if against else None
    if artifact is not None:
        return _verify(artifact, source, as_json)
    if source is None:
        raise UsageError("there is nothing to verify", "name an artifact, or a MODEL with --against")
    return _verify_all(source, out, as_json)


def _verify_all(source: "Source", out: Path, as_json: bool) -> int:
    from sixfold.artifact.verification_record import verdict_of
    from sixfold.artifact.workspace import Workspace, clear_temporaries
    from sixfold.errors import SixfoldError
    from verification.stored_result import judged_all

    folder = Workspace(out, source.checkpoint.name).folder
    found = rows_in(folder)
    if not found:
        raise SixfoldError(f"there is no variant of {source.checkpoint.name} in {folder}", "make some: sixfold export")
    clear_temporaries(folder)
    with logged(folder):
        results = judged_all([path for _, path, _ in found], source, progress)
        rows = [Row(*row, verdict_of(result)) for row, result in zip(found, results, strict=True)]
    render_cards(folder, quiet=as_json)
    if as_json:
        print_json([row_as_data(row) for row in rows])
    else:
        print_verdicts(rows)
        click.echo("")
        for sentence in failures(rows):
            click.echo(sentence)
        passed = sum(row.verdict.passed for row in rows)
        click.echo(f"{share(passed, len(rows), 'variant')} in {folder} passed.")
    return 0 if all(row.verdict.passed for row in rows) else GateError.exit_code


def _verify(artifact: Path, source: "Source | None", as_json: bool) -> int:
    from sixfold.artifact.verification_record import stored_result
    from sixfold.artifact.workspace import clear_temporaries
    from verification.judge import judge
    from verification.result import as_data, manifest_path, result_path, write_result

    manifest = manifest_path(artifact)
    if manifest.is_file():
        clear_temporaries(manifest.parent)
    verification = judge(artifact, source, progress)
    if not (manifest.is_file() or _is_artifact(artifact)):
        written = "Nothing was written, as this is no model's artifact."
    elif source is None and verification.passed and stored_result(manifest.parent, manifest.name) is not None:
        written = f"{result_path(artifact)} keeps the earlier measurements against its source"
    else:
        try:
            written = f"Written: {write_result(verification)}"
        except OSError as error:  # a read-only folder has a verdict all the same
            written = f"Not written: {error.strerror} ({result_path(artifact)})"
    if manifest.is_file():
        _show_in_cards(manifest.absolute().parent.parent, quiet=as_json)
    if as_json:
        print_json(as_data(verification))
    else:
        _print(verification, written)
    return 0 if verification.passed else GateError.exit_code


def _is_artifact(path: Path) -> bool:
    """A GGUF file, or a folder with weights: what it can be useful to find a verdict beside."""
    if path.is_file():
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    return any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))


def _show_in_cards(root: Path, *, quiet: bool) -> None:
    """A problem with a neighbor's files, or with writing, is reported, but does not fail this artifact."""
    from sixfold.errors import SixfoldError

    try:
        render_cards(root, quiet=quiet)
    except (SixfoldError, OSError) as error:
        click.echo(f"The cards in {root} were not updated: {error}", err=True)


def _print(verification: "Verification", written: str) -> None:
    from verification.result import by_format, worst

    if verification.errors:
        heading("Distance from the source (relative error of weights)")
        rows = by_format(verification.errors)
        print_table(
            ("stored as", "tensors", "mean", "largest", "limit"),
            [
                (r["encoding"] or "plain", r["tensors"], f"{r['mean']:.4f}", f"{r['largest']:.4f}", _limit(r["limit"]))
                for r in rows
            ],
        )
        heading("Worst tensors")
        print_table(
            ("tensor", "stored as", "error"),
            [(e.name, e.encoding or "plain", f"{e.relative:.4f}") for e in worst(verification.errors)[:_SHOWN]],
        )
    if verification.divergence is not None:
        _print_divergence(verification.divergence)
    if verification.smoke is not None:
        _print_smoke(verification.smoke)
    split = {ways: names for ways, names in (verification.tensor_parallel or {}).items() if names}
    if split:
        heading("Tensor parallelism")
        for ways, names in split.items():
            click.echo(f"  {ways} GPUs cannot share {', '.join(names)} evenly")
    for severity, title in (("error", "Failed"), ("warning", "Warnings")):
        found = [finding for finding in verification.findings if finding.severity == severity]
        if found:
            heading(title)
            _print_findings(found)
    verdict = "is sound" if verification.passed else f"failed: {_counted(verification.failures)}"
    click.echo(f"\n{verification.path} {verdict}. {written}")


def _print_divergence(divergence: "Divergence") -> None:
    from verification.divergence.divergence import worst_layers

    heading(
        f"Divergence from the source ({divergence.tokens:,} tokens of held-out text, float32; KL in nats per token)"
    )
    print_table(
        ("run", "mean KL", "median", "99 %", "largest", "top-1", "top-5", "perplexity", "source's"),
        [
            (
                _RUNS[name],
                f"{s.mean_kl:.5f}",
                f"{s.median_kl:.5f}",
                f"{s.p99_kl:.4f}",
                f"{s.max_kl:.3f}",
                f"{s.top1:.4f}",
                f"{s.top5:.4f}",
                f"{s.perplexity:.3f}",
                f"{s.source_perplexity:.3f}",
            )
            for name, s in divergence.scores.items()
        ],
    )
    score = divergence.as_run
    domains = ", ".join(f"{domain} {kl:.4f}" for domain, kl in score.domains.items())
    click.echo(f"  Mean KL by domain: {domains}")
    if divergence.engine is not None:
        click.echo(f"  {divergence.engine}")
    if divergence.original is not None:
        for name, lost in divergence.original.scores.items():
            click.echo(
                f"  From {divergence.original.name}, the unpruned model ({_RUNS[name]}): mean KL {lost.mean_kl:.5f},"
                f" top-1 {lost.top1:.4f}"
            )
    layers = ", ".join(f"{layer} ({added:+.4f})" for layer, added in worst_layers(score.layers)[:3])
    click.echo(f"  Layers that add most to the error of the hidden states: {layers}")


def _print_smoke(smoke: "Smoke") -> None:
    heading(f"Smoke test: no worse than the source (greedy; {smoke.engine})")
    if smoke.not_run:
        click.echo(f"  not run: {smoke.not_run}")
    print_table(
        ("prompt", "source", "answer", "verdict"),
        [
            (s.prompt.name, repr(s.expected.text[:_ANSWER]), repr(s.answer.text[:_ANSWER]), s.problem or s.standing)
            for s in smoke.prompts
        ],
    )


def _limit(value: float) -> str:
    return f"{value:.4f}" if value else "-"


def _print_findings(findings: "list[Finding]") -> None:
    """The first few of each check; verification.json has them all."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    for check, found in by_check.items():
        for finding in found[:_SHOWN]:
            click.echo(f"  {finding.where}: {finding.what} [{check}]")
        if len(found) > _SHOWN:
            click.echo(f"  ... and {len(found) - _SHOWN} more of {check}")
        click.echo(f"    In an engine: {found[0].consequence}. Fix: {found[0].remedy}.")


def _counted(findings: "tuple[Finding, ...]") -> str:
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{first.where}: {first.what}{more}"
