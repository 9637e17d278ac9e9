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

_SECONDS = 30.0
"""Least time between two lines about the same work in a log."""


def say(text: str, quiet: bool) -> None:
    """quiet: what is printed is for a program, so this goes to standard error."""
    click.echo(text, err=quiet)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Columns two spaces apart, numbers aligned right. Plain text, so that it can be piped."""
    if not rows:
        return
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    right = [all(isinstance(row[i], int) or _is_size(row[i]) for row in rows) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        aligned = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        click.echo(("  " + "  ".join(aligned)).rstrip())


def print_filled(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """The table without the columns in which no row has anything ("-")."""
    filled = [i for i in range(len(columns)) if any(row[i] != "-" for row in rows)]
    print_table([columns[i] for i in filled], [[row[i] for i in filled] for row in rows])


def print_notes(notes: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print each note once, after the names that it belongs to."""
    names: dict[str, list[str]] = {}
    for name, found in notes:
        for note in found:
            names.setdefault(note, []).append(name)
    for note, whose in names.items():
        click.echo(f"  {', '.join(whose)}: {note}")


def share(part: int, whole: int, noun: str) -> str:
    """ "2 of 3 variants"; of a single one "1 variant" or "no variant"."""
    return f"{part} of {whole} {noun}s" if whole > 1 else f"{'1' if part else 'no'} {noun}"


def program() -> str:
    """How this program was called, so that a user can copy and run the commands that it prints."""
    return "python -m sixfold" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


def this_command(command: str, instead: str, *, without: Mapping[str, int]) -> str:
    """This command line with another command in its place: for the same artifacts, overrides included, ready to copy
    and run. without: options that the other command does not have, with the number of words that each takes."""
    words = [instead if word == command else word for word in sys.argv[1:]]
    for option, length in without.items():
        words = [word for word in words if not word.startswith(f"{option}=")]
        while option in words:
            at = words.index(option)
            del words[at : at + length]
    return f"{program()} {shlex.join(words)}"


def _lines(description: str, total: int, unit: str) -> Callable[[int], None]:
    """For logs: no line for work shorter than half a minute, and at most ten lines for work that takes hours."""
    lock = threading.Lock()
    started = said_at = time.monotonic()
    done = said = 0

    def advance(amount: int) -> None:
        nonlocal done, said, said_at
        with lock:
            done += amount
            now = time.monotonic()
            if done >= total or now - said_at < _SECONDS or 10 * done // total == 10 * said // total:
                return
            said, said_at = done, now
            left = (now - started) * (total - done) / done
            click.echo(
                f"{description}: {done / total:.0%} of {_amount(total, unit)},"
                f" {_rate(done / max(now - started, 1e-6), unit)}, {_duration(left)} left",
                err=True,
            )

    return advance


def _rate(per_second: float, unit: str) -> str:
    """ "3 layers/s"; of what takes longer than a second, "12 s/layer"."""
    if unit == "B" or per_second >= 1 or per_second == 0:
        return f"{_amount(per_second, unit)}/s"
    return f"{1 / per_second:.3g} s/{unit.removesuffix('s')}"


def _amount(number: float, unit: str) -> str:
    if unit == "B":
        return size(number)
    return f"{number:.2g} {unit}" if 0 < number < 1 else f"{number:,.0f} {unit}"


def seconds_text(seconds: float) -> str:
    """ "4.2 s", "1,240 s"."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def heading(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def _is_size(cell: str | int) -> bool:
    return isinstance(cell, str) and cell.endswith(("B",)) and cell[:1].isdigit()


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and time left; where stderr is not a terminal, a line for every tenth of long work. See
    sixfold.progress.Progress.

    unit: "B" shows sizes; anything else ("tokens", "layers") shows counts.
    """
    if not sys.stderr.isatty():
        yield _lines(description, total, unit)
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
            display.update(task, completed=done, rate=_rate(rate, unit))

        yield advance
