"""How the variants of a card were made: by what commands, from what calibration, with whose work."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cards.facts.traced import Derived, Fact, derived, shown
from cards.facts.variant import Variant, table

_IMPORTANCE = "imatrix.gguf"
"""As calibration and export name it."""


@dataclass(frozen=True)
class Command:
    """Of `sixfold export`: the recipes that it makes again, and the settings that are not the shipped ones'.
    settings: without a value where the recipe does not ship."""

    recipes: tuple[Fact, ...]
    settings: Derived

    @property
    def shipped(self) -> bool:
        return self.settings.value is not None


@dataclass(frozen=True)
class Calibrated:
    """The variants that one calibration was used for. importance: name of the file beside them that holds its
    importance matrix, "" where there is none, or another calibration's."""

    facts: Fact
    labels: tuple[str, ...]
    importance: str

    @property
    def is_default(self) -> bool:
        """Whether it is of the default profile, which the chart of coverage is drawn of."""
        return self.facts.path == "../calibration/manifest.json"


def once(mine: Sequence[Variant], facts_of: Callable[[Variant], Iterable[Fact]]) -> list[tuple[Fact, str]]:
    """Each fact of the variants once, with the labels of those that it holds for before it: "Q4_K_M, Q6_K: "; "" where
    it holds for all."""
    found: dict[Any, tuple[Fact, list[str]]] = {}
    for variant in mine:
        for fact in facts_of(variant):
            found.setdefault(fact.value, (fact, []))[1].append(variant.label)
    return [(fact, "" if len(labels) == len(mine) else f"{', '.join(labels)}: ") for fact, labels in found.values()]


def calibrations_of(mine: Sequence[Variant]) -> list[Calibrated]:
    used: dict[str, list[Variant]] = {}
    for variant in mine:
        if variant.statistics:
            used.setdefault(variant.statistics.path, []).append(variant)
    return [
        Calibrated(group[0].statistics, tuple(v.label for v in group), _importance_beside(group[0]))
        for group in used.values()
    ]


def _importance_beside(variant: Variant) -> str:
    statistics = variant.artifact.statistics
    here = variant.artifact.folder / _IMPORTANCE
    if statistics is None or not here.is_file():
        return ""
    there = statistics.folder / _IMPORTANCE
    return _IMPORTANCE if there.is_file() and there.read_bytes() == here.read_bytes() else ""


def commands_of(mine: Sequence[Variant]) -> list[Command]:
    """One for all variants whose settings are the same; one for each whose recipe does not ship."""
    grouped: dict[str, list[Variant]] = {}
    for variant in mine:
        changed = derived("settings", variant.manifest.recipe).value
        grouped.setdefault(str(variant.manifest.variant.value) if changed is None else f" {changed}", []).append(
            variant
        )
    return [
        Command(tuple(v.manifest.recipe["name"] for v in group), derived("settings", group[0].manifest.recipe))
        for group in grouped.values()
    ]


def tools_of(mine: Sequence[Variant], plan: Fact) -> list[str]:
    exporters = {variant.artifact.exporter for variant in mine}

    known = table("formats.yaml").exporters
    of_formats = [known[name].credit for name in known.value if name in exporters and known[name].credit]
    others = [entry.text for entry in table("credits.yaml") if not entry.pruning or entry.pruning == plan.criterion]
    return [shown(text) for text in (*of_formats, *others)]


def texts_of(mine: Sequence[Variant]) -> list[tuple[str, list[str]]]:
    """The calibration texts that were read, by license."""
    names: dict[str, list[str]] = {}
    licenses: dict[str, str] = {}
    for calibration in calibrations_of(mine):
        for name, text in calibration.facts.tokens["files"].pairs():
            if text.tokens:
                key = str(text.license.value or "")
                licenses.setdefault(key, shown(text.license, "text") if key else "no license stated")
                at = f" at {shown(text.revision, 'start', 12)}" if text.revision else ""
                names.setdefault(key, []).append(f"{shown(name, 'text')}{at}")
    return [(licenses[key], sorted(found)) for key, found in sorted(names.items())]
