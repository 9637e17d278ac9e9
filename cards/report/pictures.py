"""The charts of a model, drawn from its facts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cards.budget.device_memory import longest_trained, memory
from cards.budget.hardware import hardware
from cards.charts.kl_by_domain import DomainRow, kl_by_domain
from cards.charts.layer_errors import LayerLine, layer_errors
from cards.charts.memory_and_context import Machine, MemoryLine, memory_and_context
from cards.charts.png import png
from cards.charts.size_and_kl import Measured, size_and_kl
from cards.facts.model_facts import ModelFacts
from cards.facts.readers import TITLES, budgeted
from cards.facts.variant import Variant, table, variants_of
from cards.model_card.images import CHARTS
from sixfold.artifact.workspace import write_if_changed
from sixfold.errors import SixfoldError
from sixfold.sizes import size

NARROW = 350
"""Width of charts on a phone, in CSS pixels."""
DRAWN = ("vllm", "llama.cpp")
"""Engines whose memory has a chart. SGLang reads the same formats as vLLM, and always takes a fixed share of the
device."""


@dataclass(frozen=True)
class Picture:
    """name: of its file, without the ending. alt: what it shows, in one sentence. svg: the chart, "" where it could not
    be drawn, and `missing` says why. narrow: the same for a phone, "" where there is none."""

    name: str
    alt: str
    svg: str
    narrow: str = ""
    missing: str = ""


def pictures(model: ModelFacts) -> tuple[Picture, ...]:
    every = variants_of(model, model.root)
    measured = [variant for variant in every if variant.as_run]
    return (
        _size_and_kl(model.name, every, measured),
        *_memory(model, every),
        _kl_by_domain(model.name, measured),
        _layer_errors(model.name, measured),
    )


def write_pictures(model: ModelFacts, charts: Sequence[Picture], heat_maps: Mapping[str, str]) -> None:
    """All that could be drawn as <model>/charts/<name>.svg and .png, and no other; cards.model_card.images copies
    them to cards.

    heat_maps: name -> SVG, "" for none.
    """
    drawn = {name: svg for name, svg in {**{p.name: p.svg for p in charts}, **heat_maps}.items() if svg}
    files = {f"{name}.svg": svg.encode() for name, svg in drawn.items()}
    files |= {f"{name}.png": png(svg) for name, svg in drawn.items()}
    folder = model.root / CHARTS
    for name, content in files.items():
        write_if_changed(folder / name, content)
    for stale in (path for path in folder.glob("*") if path.suffix in (".svg", ".png") and path.name not in files):
        stale.unlink()


def series_of(every: Sequence[Variant]) -> dict[str, int]:
    """Recipe -> number of its color: one for each exporter, the source's own first, whatever variants there are."""
    known = list(table("formats.yaml").value["exporters"])
    others = sorted({variant.artifact.exporter for variant in every} - set(known))
    order = [*known, *others]
    return {variant.artifact.recipe: order.index(variant.artifact.exporter) for variant in every}


def contexts_of(longest: int) -> tuple[int, ...]:
    """Context lengths that budgets are shown for: doublings up to the longest that the config allows, and that one."""
    least = 4096 if longest >= 16384 else max(longest // 8, 1)
    doublings = []
    while least < longest:
        doublings.append(least)
        least *= 2
    return (*doublings, longest)


def _size_and_kl(name: str, every: Sequence[Variant], measured: Sequence[Variant]) -> Picture:
    alt = "Size of each variant against its mean KL divergence from the source"
    if not measured:
        return Picture("size-and-kl", alt, "", missing=_UNMEASURED)
    series = series_of(every)
    points = [
        Measured(
            label=v.artifact.label,
            series=series[v.artifact.recipe],
            nbytes=v.artifact.nbytes,
            kl=float(v.as_run.mean_kl.value),
            said=f"{v.artifact.label}: {size(v.artifact.nbytes)}, mean KL {v.as_run.mean_kl.value:.5f}",
            sound=v.passed,
        )
        for v in measured
    ]
    return _both("size-and-kl", alt, partial(size_and_kl, name, points))


def _kl_by_domain(name: str, measured: Sequence[Variant]) -> Picture:
    alt = "Mean KL divergence of each variant on each kind of text"
    rows = [DomainRow(v.artifact.label, v.as_run.domains.value) for v in measured if v.as_run.domains]
    if not rows:
        return Picture("kl-by-domain", alt, "", missing=_UNMEASURED)
    return _both("kl-by-domain", alt, partial(kl_by_domain, name, rows))


def _layer_errors(name: str, measured: Sequence[Variant]) -> Picture:
    alt = "Relative error of the hidden states after each decoder layer, for each variant"
    series = series_of(measured)
    lines = [
        LayerLine(v.artifact.label, series[v.artifact.recipe], tuple(v.as_run.layers.value))
        for v in measured
        if v.as_run.layers
    ]
    if not lines:
        return Picture("layer-errors", alt, "", missing=_UNMEASURED)
    return _both("layer-errors", alt, partial(layer_errors, name, lines))


def _memory(model: ModelFacts, every: Sequence[Variant]) -> Iterator[Picture]:
    for engine in DRAWN:
        read = [variant for variant in every if engine in budgeted(variant)]
        if not read:
            continue
        name = f"memory-{engine.replace('.', '-')}"
        alt = f"Memory that each variant takes in {TITLES[engine]} against the length of the context"
        try:
            lines = _memory_lines(read, engine, series_of(every))
        except SixfoldError as error:
            yield Picture(name, alt, "", missing=str(error))
            continue
        machines = [
            Machine(machine.title, machine.usable(engine))
            for machine in hardware()
            if machine.devices == 1 and engine in machine.engines
        ]
        yield _both(name, alt, partial(memory_and_context, model.name, TITLES[engine], lines, machines))


def _memory_lines(read: Sequence[Variant], engine: str, series: dict[str, int]) -> list[MemoryLine]:
    contexts = contexts_of(longest_trained(read[0].artifact.config))
    return [
        MemoryLine(
            v.artifact.label,
            series[v.artifact.recipe],
            tuple(
                (context, memory(v.artifact.config, v.artifact.weight_nbytes, engine, context).total)
                for context in contexts
            ),
        )
        for v in read
    ]


def _both(name: str, alt: str, drawn: "partial[str]") -> Picture:
    return Picture(name, alt, drawn(), drawn(width=NARROW))


_UNMEASURED = "no variant's distance from the source has been measured"
