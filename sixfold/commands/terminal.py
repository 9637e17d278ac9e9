"""What commands print: tables, JSON, sizes, and progress with rate and time left."""

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sixfold.sizes import size


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Columns padded with two spaces between; numbers to the right. Plain text, so that pipes get it too."""
    if not rows:
        return
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    right = [all(isinstance(row[i], int) or _is_size(row[i]) for row in rows) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        aligned = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        click.echo(("  " + "  ".join(aligned)).rstrip())


def this_command(command: str, instead: str, *, without: Mapping[str, int]) -> str:
    """The command line that runs, with another command in place of its own: it asks for the same artifacts, overrides
    included, and can be run as it stands. without: options that the other one does not have, with their words."""
    program = "python -m sixfold" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    words = [instead if word == command else word for word in sys.argv[1:]]
    for option, length in without.items():
        while option in words:
            at = words.index(option)
            del words[at : at + length]
    return f"{program} {shlex.join(words)}"


def heading(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def _is_size(cell: str | int) -> bool:
    return isinstance(cell, str) and cell.endswith(("B",)) and cell[:1].isdigit()


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and time left; nothing where stderr is no terminal. See sixfold.progress.Progress.

    unit: "B" shows sizes; anything else ("tokens", "layers") shows counts.
    """
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    lock = threading.Lock()
    started = time.monotonic()
    done = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(description, total=total, rate="")

        def advance(amount: int) -> None:
            nonlocal done
            with lock:
                done += amount
                rate = done / max(time.monotonic() - started, 1e-6)
            shown = f"{size(rate)}/s" if unit == "B" else f"{rate:,.0f} {unit}/s"
            display.update(task, completed=done, rate=shown)

        yield advance
