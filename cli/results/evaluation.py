"""What an evaluation found: benchmarks beside their baseline, and answers that end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.terminal import heading, print_table

_SHOWN = 8
"""Names of problems that are listed."""


def print_evaluation(found: Mapping[str, Any], written: Path) -> None:
    """found: what stands in evaluation.json. written: that file."""
    for entry in found["benchmarks"]:
        heading(entry["name"])
        rows = []
        if "passed" in entry:
            rows.append(
                ("strict (cut off = failed)", entry["passed"], entry["answers"], entry["interval"], entry, "passed")
            )
            completed = entry["completed"]
            rows.append(
                ("on completed problems", completed["passed"], completed["answers"], completed["interval"], entry, "")
            )
        if "raw" in entry:
            raw = entry["raw"]
            rows.append(("raw completion", raw["passed"], raw["answers"], raw["interval"], raw, "passed"))
        print_table(
            ("", "passed", "of", "share", "95 %", "cut off", "baseline"),
            [
                (
                    label,
                    passed,
                    of,
                    f"{passed / of:.1%}" if of else "-",
                    f"{interval[0]:.1%} to {interval[1]:.1%}",
                    part["truncated"],
                    _baseline(part, key),
                )
                for label, passed, of, interval, part, key in rows
            ],
        )
        for part in (entry, entry.get("raw", {})):
            _print_flips(part)
    if found["endings"] is not None:
        _print_endings(found["endings"])
    for sentence in found["findings"]:
        click.echo(f"Failed: {sentence}.")
    click.echo(f"\nWritten: {written}")


def _baseline(part: Mapping[str, Any], key: str) -> str:
    baseline = part.get("baseline")
    if not baseline:
        return "-"
    passed = baseline["passed"] if key else baseline["completed"]["passed"]
    return f"{passed} of {baseline['answers'] if key else baseline['completed']['answers']}"


def _print_flips(part: Mapping[str, Any]) -> None:
    for whom, baseline in (("Against", part.get("baseline")), ("Since the original,", part.get("original"))):
        if not baseline:
            continue
        click.echo(
            f"  {whom} {baseline['name']} ({baseline['engine']['name']}): gained {_some(baseline['gained'])}; lost"
            f" {_some(baseline['lost'])}; McNemar's exact p = {baseline['p']:.3g}"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})" if names else "none"


def _print_endings(found: Mapping[str, Any]) -> None:
    heading(f"Answers that end (temperature {found['temperature']:g}, cap {found['max_tokens']:,} tokens)")
    baseline = found["baseline"] or {}
    print_table(
        ("", "answers", "of", "share", "95 %", "baseline"),
        [
            (
                label,
                found[key],
                found["answers"],
                f"{found[key] / found['answers']:.1%}",
                "{:.1%} to {:.1%}".format(*found[f"{key}_interval"]),
                str(baseline.get(key, "-")),
            )
            for label, key in (("end by themselves", "ended"), ("run in a loop", "looping"))
        ],
    )
    if found["mean_tokens"] is not None:
        low, high = found["mean_tokens_interval"]
        click.echo(f"  Mean length {found['mean_tokens']:.0f} tokens ({low:.0f} to {high:.0f})")
