"""The images of a card: charts of the whole model, of which each folder holds its own copy, and of single variants.

The Hub does not show SVG files as images, so a card shows the PNG and leads to the SVG.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cards.facts.model_facts import ModelFacts
from cards.facts.readers import reader_of
from cards.facts.variant import Variant, variant_of
from sixfold.artifact.verification_record import content_digest
from sixfold.artifact.workspace import read_json, write_if_changed

CHARTS = "charts"
"""Folder in a model's folder where `sixfold report` draws them, and beside a card."""
DARK = "-dark"
"""Ends the name of a PNG in the colors of a dark page."""
_NAMES = {
    "choose": {"size-and-kl": "Size of each variant against its divergence from BF16"},
    "memory": {
        "memory-vllm": "Memory against context in vLLM",
        "memory-llama-cpp": "Memory against context in llama.cpp",
    },
    "quality": {
        "kl-by-domain": "Divergence by kind of text",
        "layer-errors": "Error of the hidden states after each layer",
    },
    "calibration": {"expert-tokens": "Calibration tokens that reached the experts of each layer"},
    "pruning": {"expert-saliency": "Saliency of the experts of each layer, and which stayed"},
}
"""Section of a card -> names of its charts, with what they show."""


def bring_charts(model: ModelFacts, folder: Path) -> None:
    """Copy the model's charts that its card shows beside the card, and remove all other charts there."""
    if not (model.root / CHARTS).is_dir():
        return
    artifacts = model.of(folder)
    engines = [engine.value for engine in reader_of(variant_of(artifacts[0], folder)).engines]
    names = {name for section in _NAMES for name in _names(section, engines)}
    if not any(artifact.statistics for artifact in artifacts):
        names -= set(_NAMES["calibration"])
    files = {f"{name}{end}" for name in names for end in (".svg", ".png", f"{DARK}.png")}
    for file in files:
        if (model.root / CHARTS / file).is_file():
            write_if_changed(folder / CHARTS / file, (model.root / CHARTS / file).read_bytes())
    for path in sorted((folder / CHARTS).glob("*")):
        if path.suffix in (".svg", ".png") and not (path.name in files and (model.root / CHARTS / path.name).is_file()):
            path.unlink()


def charts_of(folder: Path, engines: Sequence[str]) -> dict[str, list[str]]:
    """Images for each section of a card: pictures, with a link to the drawing.

    engines: that read the variant, as cards/formats.yaml names them; others' memory is left out.
    """
    return {
        section: [image for name, shows in _names(section, engines).items() if (image := _image(folder, name, shows))]
        for section in _NAMES
    }


def _names(section: str, engines: Sequence[str]) -> dict[str, str]:
    others = {name for name in _NAMES["memory"] if name.removeprefix("memory-") not in _file_names(engines)}
    return {name: shows for name, shows in _NAMES[section].items() if name not in others}


def _image(folder: Path, name: str, shows: str) -> str:
    """ "" where there is none. A page that leaves <source> out, or is light, shows the light one."""
    light, dark, drawing = (f"{CHARTS}/{name}{end}" for end in (".png", f"{DARK}.png", ".svg"))
    if not (folder / light).is_file():
        return f"![{shows}]({drawing})" if (folder / drawing).is_file() else ""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">' if (folder / dark).is_file() else ""
    image = f'<picture>{source}<img alt="{escape(shows)}" src="{light}"></picture>'
    return f'<a href="{drawing}">{image}</a>' if (folder / drawing).is_file() else image


def _file_names(engines: Sequence[str]) -> set[str]:
    return {engine.replace(".", "-") for engine in engines}


def attributions_of(mine: Sequence[Variant]) -> list[str]:
    """The chart that `sixfold suggest` drew for exactly these files."""
    found = []
    for variant in mine:
        folder, file = variant.artifact.folder, variant.artifact.file
        prefix = "" if file is None else f"{file}."
        measured = read_json(folder / f"{prefix}attribution.json") or {}
        current = measured.get("artifact", {}).get("content") == content_digest(variant.artifact.manifest)
        if current and (folder / f"{prefix}attribution.svg").is_file() and (file is None or variant.parts.value == 1):
            shown_prefix = "" if file is None else f"{variant.first_file}."
            found.append(f"![What each part of {variant.label} costs]({shown_prefix}attribution.svg)")
    return found
