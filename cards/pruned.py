"""README.md of a pruned checkpoint, rendered from the files beside it alone."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cards.card import CARD, TEMPLATES
from sixfold.provenance import Provenance, read_provenance
from sixfold.sizes import size
from sixfold.statistics import Statistics
from sixfold.workspace import read_json, write_atomically


def write_pruned_card(folder: Path, statistics: Statistics | None) -> Path:
    """From manifest.json, plan.json, verification.json and provenance.yaml in `folder`.

    statistics: the calibration that the plan names, None where it is not at hand; its texts are left out then.
    """
    facts = {name: read_json(folder / f"{name}.json") or {} for name in ("manifest", "plan", "verification")}
    text = render(facts, read_provenance(folder, None), statistics)
    write_atomically(folder / CARD, text.encode())
    return folder / CARD


def render(facts: dict[str, dict[str, Any]], provenance: Provenance, statistics: Statistics | None) -> str:
    """Markdown with YAML front matter. Raises jinja2's UndefinedError where the template lacks a fact."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["size"] = size
    environment.filters["billions"] = lambda count: f"{count / 1e9:.3g} billion"
    plan = facts["plan"]
    kept = sorted({len(layer["kept"]) for layer in plan["layers"]})
    return environment.get_template("pruned.md.j2").render(
        front_matter=yaml.safe_dump(_front_matter(provenance, plan), sort_keys=False, allow_unicode=True),
        provenance=provenance,
        plan=plan,
        kept=str(kept[0]) if len(kept) == 1 else f"{kept[0]} to {kept[-1]}",
        experts=plan["layers"][0]["experts"],
        verification=facts["verification"],
        manifest=facts["manifest"],
        calibration=None if statistics is None else statistics.manifest,
    )


def _front_matter(provenance: Provenance, plan: dict[str, Any]) -> dict[str, Any]:
    fields = {
        "license": provenance.license,
        "license_name": provenance.license_name,
        "license_link": provenance.license_link,
        "base_model": provenance.base_model,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": sorted({"sixfold", "pruned", "moe", plan["criterion"]}),
    }
    return {key: value for key, value in fields.items() if value}
