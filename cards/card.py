"""README.md of a variant's folder, rendered from its manifests and what verification stored beside them.

A sentence without its fact is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sixfold.checkpoint import Provenance
from sixfold.sizes import size
from sixfold.statistics import Statistics
from sixfold.verdict import Verdict, stored_result, verdict_of
from sixfold.workspace import read_json, write_atomically

CARD = "README.md"
TEMPLATES = Path(__file__).parent / "templates"
_GGUF_LIBRARY = "gguf"


def write_card(folder: Path, provenance: Provenance, statistics: Statistics | None) -> Path:
    """Render the card of `folder` from all manifests in it.

    statistics: shown where a manifest names their digest, which other statistics cannot have.
    Returns the card's path. The card is outside the manifests' hashes.
    """
    manifests = read_manifests(folder)
    used = statistics is not None and any(m["statistics"] == statistics.digest for m in manifests)
    text = render(manifests, provenance, statistics.manifest if used and statistics else None, read_verdicts(folder))
    write_atomically(folder / CARD, text.encode())
    return folder / CARD


def read_manifests(folder: Path) -> list[dict[str, Any]]:
    """manifest.json of a Hugging Face folder, or one `<file>.manifest.json` for each GGUF, smallest artifact first."""
    found = [read_json(path) for path in sorted(folder.glob("*manifest.json"))]
    return sorted((m for m in found if m is not None), key=lambda m: sum(f["bytes"] for f in m["files"].values()))


def read_verdicts(folder: Path) -> dict[str, Verdict]:
    """Name of the recipe -> what was measured of the artifact as it is now."""
    found = {path.name: (read_json(path), stored_result(folder, path.name)) for path in folder.glob("*manifest.json")}
    return {m["recipe"]["name"]: verdict_of(result) for m, result in found.values() if m is not None and result}


def render(
    manifests: list[dict[str, Any]],
    provenance: Provenance,
    calibration: Mapping[str, Any] | None,
    verdicts: Mapping[str, Verdict],
) -> str:
    """Markdown with YAML front matter. Raises jinja2's UndefinedError where the template lacks a fact."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["size"] = size
    return environment.get_template("variant.md.j2").render(
        front_matter=yaml.safe_dump(_front_matter(manifests, provenance), sort_keys=False, allow_unicode=True),
        manifests=manifests,
        first=manifests[0],
        provenance=provenance,
        measured=[(name, v) for m in manifests if (v := verdicts.get(name := m["recipe"]["name"])) and v.as_run],
        failures=[failure for verdict in verdicts.values() for failure in verdict.failures],
        calibration=calibration,
        tokens=_calibration_tokens(calibration),
        calibrated=[m["recipe"]["name"] for m in manifests if m["statistics"]],
        statistics=next((m["statistics"] for m in manifests if m["statistics"]), None),
        files={name: record for manifest in manifests for name, record in manifest["files"].items()},
        command=_command(manifests),
    )


def _front_matter(manifests: list[dict[str, Any]], provenance: Provenance) -> dict[str, Any]:
    recipe = manifests[0]["recipe"]
    fields = {
        "license": provenance.license,
        "license_name": provenance.license_name,
        "license_link": provenance.license_link,
        "base_model": provenance.base_model,
        "base_model_relation": "quantized" if provenance.base_model and recipe["exporter"] != "bf16" else "",
        "library_name": _GGUF_LIBRARY if recipe["exporter"] == "gguf" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": sorted({"sixfold", *(m["recipe"]["scheme"].lower() for m in manifests)}),
    }
    return {key: value for key, value in fields.items() if value}


def _calibration_tokens(calibration: Mapping[str, Any] | None) -> int | None:
    if calibration is None or "tokens" not in calibration:
        return None
    return int(calibration["tokens"]["samples"] * calibration["tokens"]["length"])


def _command(manifests: list[dict[str, Any]]) -> str:
    names = " ".join(manifest["recipe"]["name"] for manifest in manifests)
    return f"sixfold export MODEL {names}"
