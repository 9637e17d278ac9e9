"""The ladder of mixes as table, chart and command: what each further megabyte buys."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.terminal import heading, print_table, program
from sixfold.sizes import size

if TYPE_CHECKING:
    from exporters.mix.ladder import Rung
    from sixfold.model.source import Source
    from sixfold.statistics.statistics import Statistics

NAME = "ladder"
_FAMILY = {"gguf": "gguf-auto"}
"""Exporter of an artifact -> the recipe that mixes types of the same engines; of every other exporter the last."""
_OTHERS = "nvfp4-auto"


def show_ladder(
    artifact: Path, source: "Source", against: str, out: Path, statistics: "Statistics | None", exporter: str
) -> None:
    """Print the ladder of mixes of the artifact's kind, and write it beside it as ladder.json and ladder.svg.

    against: the checkpoint as it was named. out: root of the output tree that the artifact is in.
    """
    from dataclasses import asdict

    from exporters.mix.ladder import ladder
    from sixfold.artifact.manifest import beside
    from sixfold.artifact.workspace import write_atomically, write_json
    from sixfold.recipes.recipe import load_recipes

    (recipe,) = load_recipes(_FAMILY.get(exporter, _OTHERS))
    rungs = ladder(source, recipe, statistics) if statistics is not None else ()
    heading("What each further megabyte buys, where every tensor's type is chosen")
    asked = shlex.join([against, recipe.name, *([] if out == Path("artifacts").absolute() else ["--out", str(out)])])
    if not rungs:
        click.echo(f"Not known yet; this finds out: {program()} calibrate {asked}")
        return
    print_table(("bytes", "size", "expected KL", "KL less per MB", "raised next"), _rows(rungs))
    picture, data = beside(artifact, f"{NAME}.svg"), beside(artifact, f"{NAME}.json")
    write_json(data, {"schema": 1, "recipe": recipe.name, "rungs": [asdict(rung) for rung in rungs]})
    write_atomically(picture, _chart(source.checkpoint.name, rungs).encode())
    click.echo(f"\nExpected: parts' errors added up, weights alone. Written: {data} and {picture.name}")
    click.echo(f"To make one: {program()} export {asked} --set budget.bytes={rungs[len(rungs) // 2].nbytes}")


def _rows(rungs: "Sequence[Rung]") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for rung, above in zip(rungs, [*rungs[1:], None], strict=True):
        less = raised = "-"
        if above is not None:
            less = f"{(rung.kl - above.kl) / (above.nbytes - rung.nbytes) * 1e6:.3g}"
            raised = _some(above.raised)
        rows.append((f"{rung.nbytes:,}", size(rung.nbytes), f"{rung.kl:.5f}", less, raised))
    return rows


def _some(raised: Mapping[str, str]) -> str:
    named = [f"{part} to {kind}" for part, kind in raised.items()]
    return ", ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")


def _chart(name: str, rungs: "Sequence[Rung]") -> str:
    from sixfold.drawing.bar_chart import Bar, bar_chart

    note = "expected mean KL per token of the best mix of each size: parts' errors added up, weights alone"
    bars = [Bar(size(r.nbytes), r.kl, f"{r.kl:.4f}", f"{r.nbytes:,} bytes: expected mean KL {r.kl:.5f}") for r in rungs]
    return bar_chart(f"What bytes buy: {name}", note, bars)
