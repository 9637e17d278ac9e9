"""sixfold verify: is an artifact sound, and how far are its weights from the source's."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sixfold.commands.options import Model, json_option
from sixfold.commands.terminal import heading, print_json, print_table, progress

if TYPE_CHECKING:
    from verification.finding import Finding
    from verification.result import Verification

_SHOWN = 5


@click.command(epilog="Example: sixfold verify artifacts/m/m-FP8 --against demo/minimax-m2-4.6m")
@click.argument("artifact", metavar="FOLDER|FILE.gguf", type=click.Path(path_type=Path))
@click.option("--against", default="", metavar="MODEL", help="The checkpoint that it was made from: folder or hub id.")
@click.option("--revision", default="", metavar="TEXT", help="Branch, tag or commit of a hub id.")
@json_option
def command(artifact: Path, against: str, revision: str, as_json: bool) -> int:
    """Check an artifact, whatever tool made it, and write verification.json beside it.

    Names, shapes, scales, configuration and files are held against what engines look for; with --against, every tensor
    is dequantized and compared with the source's. Exit code 3 where a check fails.
    """
    from verification.result import as_data, write_result
    from verification.verify import verify

    source = Model(against, revision, "", {}).open() if against else None
    verification = verify(artifact, source, progress)
    written = write_result(verification)
    if as_json:
        print_json(as_data(verification))
    else:
        _print(verification, written)
    return 0 if verification.passed else 3


def _print(verification: "Verification", written: Path) -> None:
    from verification.result import by_format, worst

    if verification.errors:
        heading("Distance from the source (relative error of weights)")
        rows = by_format(verification.errors)
        print_table(
            ("held as", "tensors", "mean", "largest", "limit"),
            [
                (r["encoding"] or "plain", r["tensors"], f"{r['mean']:.4f}", f"{r['largest']:.4f}", _limit(r["limit"]))
                for r in rows
            ],
        )
        heading("Worst tensors")
        print_table(
            ("tensor", "held as", "error"),
            [(e.name, e.encoding or "plain", f"{e.relative:.4f}") for e in worst(verification.errors)[:_SHOWN]],
        )
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
    click.echo(f"\n{verification.path} {verdict}. Written: {written}")


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
        click.echo(f"    An engine: {found[0].consequence}. To mend it: {found[0].remedy}.")


def _counted(findings: "tuple[Finding, ...]") -> str:
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{first.where}: {first.what}{more}"
