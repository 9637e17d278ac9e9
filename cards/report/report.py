"""report.html: every variant of a model on one self-contained page.

Templates, style and script are in templates/report/; the page has them, its charts and its data inline, and a policy
that lets a browser load nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cards.charts.marks import hue
from cards.facts.model_facts import ModelFacts
from cards.facts.recommendable import STATES, Standing, standing_of
from cards.facts.traced import Derived, Fact, derived
from cards.facts.variant import Variant, fact_of, variants_of
from cards.model_card.images import CHARTS
from cards.report.html_figures import absent, figure, raw, words
from cards.report.machine_choice import machine_choice
from cards.report.pictures import Picture, series_of
from sixfold.artifact.source_record import FILE as SOURCE
from sixfold.artifact.source_record import FOLDER
from sixfold.artifact.workspace import CALIBRATION, write_if_changed
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.drawing.svg_document import DARK, LIGHT, Theme
from sixfold.errors import SixfoldError
from sixfold.statistics.statistics import MANIFEST, Statistics, existing_statistics

REPORT = "report.html"
MAPS = ("coverage", "saliency")
"""Drawings of every expert that `sixfold report` leaves in charts/."""
TEMPLATES = Path(__file__).parents[1] / "templates" / "report"


@dataclass(frozen=True)
class Row:
    """A variant in the comparison. bits: of weights for each parameter, a missing fact where they were not counted.
    unmeasured: why there is no divergence, "" where there is."""

    facts: Variant
    label: str
    series: int
    bits: Derived | Fact
    standing: Standing
    unmeasured: str

    @property
    def gates(self) -> Fact:
        """What it was held to; of one that was not verified, what its recipe asks."""
        return self.facts.verification.allowed or self.facts.manifest.recipe.gates

    @property
    def link(self) -> str:
        """From the report to the folder, or to the GGUF file."""
        artifact = self.facts.artifact
        return f"{artifact.folder.name}/{artifact.file or ''}"


def write_report(model: ModelFacts, charts: Sequence[Picture], experts: tuple[Picture, Picture]) -> Path:
    """In the model's folder; left alone where nothing changed. Returns its path."""
    path = model.root / REPORT
    write_if_changed(path, report_html(model, charts, experts).encode())
    return path


def report_html(model: ModelFacts, charts: Sequence[Picture], experts: tuple[Picture, Picture]) -> str:
    """The page. charts, experts: of cards.report.pictures."""
    return _environment().get_template("page.html.j2").render(_context(model, charts, experts))


@cache
def _environment() -> Environment:
    """A fact can only be printed through a filter: as text it raises."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "words": words, "raw": raw}
    environment.globals |= {"absent": absent, "derived": derived, "hue": hue}
    return environment


def _context(model: ModelFacts, charts: Sequence[Picture], experts: tuple[Picture, Picture]) -> dict[str, Any]:
    every = variants_of(model, model.root)
    rows = _rows(model, every)
    first = every[0]
    calibration = model.root / CALIBRATION
    statistics = existing_statistics(calibration)  # of another version of the project they are as none
    return {
        "model": model,
        "rows": rows,
        "held": {name for row in rows for name in ("max_mean_kl", "min_top1") if row.gates[name]},
        "states": {state: [row for row in rows if row.standing.state == state] for state in STATES},
        "tokens": max((row.facts.divergence.tokens for row in rows if row.facts.as_run), key=_value, default=None),
        "unpruned": next((row.facts.divergence.original for row in rows if row.facts.since_original), None),
        "smallest": rows[0].facts.size,
        "largest": rows[-1].facts.size,
        "software": _software(every),
        "fingerprint": first.manifest.source.fingerprint,
        "revision": first.manifest.source.revision,
        "source": fact_of(model.source, model.root / FOLDER / SOURCE, model.root),
        "calibration": fact_of(
            None if statistics is None else dict(statistics.manifest), calibration / MANIFEST, model.root
        ),
        "calibrated_otherwise": _calibrated_otherwise(every, statistics),
        "pruning": _pruning(model),
        "charts": charts,
        "coverage": experts[0],
        "saliency": experts[1],
        "maps": {name: f"{CHARTS}/{name}.svg" for name in MAPS if (model.root / CHARTS / f"{name}.svg").is_file()},
        "choice": machine_choice(model),
        "script_data": script_data,
        "svg": lambda picture: Markup(picture),
        "css": Markup(f"{_colors()}{(TEMPLATES / 'style.css').read_text(encoding='utf-8')}"),
        "script": Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    }


def _calibrated_otherwise(every: Sequence[Variant], shown: Statistics | None) -> list[str]:
    """Labels of the variants that were made from statistics other than those that the page shows."""
    if shown is None:
        return []
    return [v.artifact.label for v in every if v.artifact.manifest["statistics"] not in (None, shown.digest)]


def _software(every: Sequence[Variant]) -> list[tuple[Fact, Fact]]:
    """Names and versions of the libraries that the variants were made with, each pair once."""
    found = {
        (name.value, version.value): (name, version) for v in every for name, version in v.manifest.versions.pairs()
    }
    return list(found.values())


def _rows(model: ModelFacts, every: Sequence[Variant]) -> list[Row]:
    series = series_of(every)
    parameters = parameters_of(model, every)
    return [_row(variant, series, parameters) for variant in every]


def _row(variant: Variant, series: Mapping[str, int], parameters: Fact) -> Row:
    verdict = variant.artifact.verdict
    return Row(
        facts=variant,
        label=variant.artifact.label,
        series=series[variant.artifact.recipe],
        bits=derived("bits_per_weight", variant.manifest.files, parameters) if parameters else parameters,
        standing=standing_of(variant),
        unmeasured="not verified" if verdict is None else verdict.unmeasured,
    )


def parameters_of(model: ModelFacts, every: Sequence[Variant]) -> Fact:
    """Of the checkpoint, counted in the headers of the BF16 variant, or as its pruning counted them; without a value
    where there is neither."""
    for variant in (v for v in every if v.is_bf16 and not standing_of(v).lost):
        folder, names = variant.artifact.folder, variant.artifact.weight_files
        try:
            headers = [read_header(folder, name) for name in names]
        except SixfoldError:  # damaged: the report shows what verification says
            continue
        return Fact(sum(prod(t.shape) for h in headers for t in h.tensors), f"{folder.name}/{names[0]}")
    return _pruning(model)["verification"].after.parameters


def _pruning(model: ModelFacts) -> dict[str, Fact]:
    """manifest, plan and verification; without values where the checkpoint was not pruned here."""
    found = model.pruning
    if found is None:
        return {name: Fact(None, "") for name in ("manifest", "plan", "verification")}
    return {
        name: fact_of(getattr(found, name), found.folder / f"{name}.json", model.root)
        for name in ("manifest", "plan", "verification")
    }


def _value(fact: Fact) -> int:
    return int(fact.value)


def script_data(value: Any) -> Markup:
    """JSON for a <script> element, which it cannot end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _colors() -> str:
    """The colors of the pictures, as custom properties of the page."""
    return f":root{{{_properties(LIGHT)}}}@media (prefers-color-scheme: dark){{:root{{{_properties(DARK)}}}}}\n"


def _properties(theme: Theme) -> str:
    named = {"paper": theme.paper, "ink": theme.ink, "quiet": theme.quiet, "rule": theme.rule, "edge": theme.edge}
    hues = {f"hue{number}": hue for number, hue in enumerate(theme.hues)}
    return "".join(f"--{name}:{color};" for name, color in (named | hues).items())
