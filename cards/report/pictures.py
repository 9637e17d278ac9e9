"""The charts of a model, drawn from its facts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cards.budget.device_memory import longest_trained, memory
from cards.budget.hardware import hardware
from cards.charts.expert_spans import Group, expert_spans
from cards.charts.kl_by_domain import DomainRow, kl_by_domain
from cards.charts.layer_errors import LayerLine, layer_errors
from cards.charts.memory_and_context import Machine, MemoryLine, memory_and_context
from cards.charts.png import png
from cards.charts.size_and_kl import Measured, size_and_kl
from cards.facts.model_facts import ModelFacts
from cards.facts.readers import TITLES, budgeted
from cards.facts.variant import Variant, table, variants_of
from cards.model_card.images import CHARTS, DARK
from sixfold.artifact.workspace import CALIBRATION, write_if_changed
from sixfold.errors import SixfoldError
from sixfold.sizes import size
from sixfold.statistics.statistics import existing_statistics

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


def expert_pictures(model: ModelFacts) -> tuple[Picture, Picture]:
    """(tokens that calibration sent to the experts, saliency by which experts were pruned)"""
    return _expert_tokens(model), _expert_saliency(model)


def write_pictures(model: ModelFacts, charts: Sequence[Picture], heat_maps: Mapping[str, str]) -> None:
    """All that could be drawn as <model>/charts/<name>.svg, .png and -dark.png, and no other; cards.model_card.images
    copies them to cards.

    heat_maps: name -> SVG, "" for none; these are for a click, and have no PNG.
    """
    drawn = {picture.name: picture.svg for picture in charts if picture.svg}
    files = {f"{name}.svg": svg.encode() for name, svg in {**drawn, **heat_maps}.items() if svg}
    files |= {
        f"{name}{DARK if dark else ''}.png": png(svg, dark=dark)
        for name, svg in drawn.items()
        for dark in (False, True)
    }
    folder = model.root / CHARTS
    for name, content in files.items():
        write_if_changed(folder / name, content)
    for stale in (path for path in folder.glob("*") if path.suffix in (".svg", ".png") and path.name not in files):
        stale.unlink()


def series_of(every: Sequence[Variant]) -> dict[str, int]:
    """Recipe -> number of its series: its exporter's shape and color, the source's own first, whatever variants there
    are; of several of one exporter each has the next color, the largest the exporter's own."""
    known = list(table("formats.yaml").value["exporters"])
    others = sorted({variant.artifact.exporter for variant in every} - set(known))
    order = [*known, *others]
    series: dict[str, int] = {}
    for exporter in order:
        made = [variant for variant in every if variant.artifact.exporter == exporter]
        made.sort(key=lambda variant: (-variant.artifact.nbytes, variant.artifact.recipe))
        first = order.index(exporter)
        series |= {variant.artifact.recipe: first % 6 + 6 * (first // 6 + n) for n, variant in enumerate(made)}
    return series


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


def _expert_tokens(model: ModelFacts) -> Picture:
    name, alt = "expert-tokens", "Calibration tokens that reached the experts of each layer"
    statistics = existing_statistics(model.root / CALIBRATION)
    if statistics is None:
        return Picture(name, alt, "", missing="no calibration of this version is beside the artifacts")
    coverage = statistics.manifest.get("coverage")
    if not coverage:
        imatrix = "imatrix" in statistics.manifest
        missing = "an importance matrix does not say" if imatrix else "the model has no experts"
        return Picture(name, alt, "", missing=missing)
    shares = tuple(_to_mean(layer["tokens"]) for layer in coverage)
    note = f"{sum(map(len, shares)):,} experts; 1 is an even share of the layer's tokens."
    drawn = partial(expert_spans, model.name, "Tokens that reached the experts in calibration", note)
    numbers = [layer["layer"] for layer in coverage]
    return _both(
        name, alt, partial(drawn, "share of the layer's tokens, to an even one", numbers, [Group("", 0, shares)])
    )


def _expert_saliency(model: ModelFacts) -> Picture:
    name, alt = "expert-saliency", "Saliency of the experts of each layer, and which of them stayed"
    plan = model.pruning.plan if model.pruning is not None else {}
    layers = plan.get("layers", [])
    if not layers:
        return Picture(name, alt, "", missing="no pruning plan is known for this checkpoint")
    if not all(layer.get("saliency") for layer in layers):
        return Picture(name, alt, "", missing="the pruning plan does not say how salient the experts were")
    every = [_to_mean(layer["saliency"]) for layer in layers]
    stays = [set(layer["kept"]) for layer in layers]
    kept, pruned = (
        tuple(
            tuple(value for n, value in enumerate(values) if (n in chosen) == wanted)
            for values, chosen in zip(every, stays, strict=True)
        )
        for wanted in (True, False)
    )
    note = f"{sum(map(len, kept)):,} of {sum(map(len, every)):,} experts stay; 1 is the mean of the layer's."
    drawn = partial(expert_spans, model.name, f"Saliency of the experts ({plan['criterion']})", note)
    groups = [Group("stay", 0, kept), Group("pruned", 1, pruned)]
    return _both(name, alt, partial(drawn, "saliency, to the layer's mean", [n["layer"] for n in layers], groups))


def _to_mean(values: Sequence[float]) -> tuple[float, ...]:
    mean = sum(values) / len(values) or 1.0
    return tuple(value / mean for value in values)


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
