"""README.md of a pruned checkpoint, rendered only from the files beside it."""

from pathlib import Path

import yaml

from cards.evaluation_section import benchmarks_of, checkpoint_in
from cards.facts.origins import record
from cards.facts.traced import Fact, derived, shown
from cards.facts.variant import fact_of, table
from cards.model_card.card import CARD, Rendered, assembled, write_card
from cards.model_card.context import license_file_in
from cards.model_card.metadata import license_fields, stated
from cards.model_card.rendering import hub_link, render
from sixfold.artifact.workspace import read_json
from sixfold.checkpoint.provenance import FILE as PROVENANCE
from sixfold.statistics.statistics import Statistics


def write_pruned_card(folder: Path, statistics: Statistics | None) -> Path:
    """From manifest.json, plan.json, verification.json, provenance.yaml and healing.json, if there is one, in `folder`.

    statistics: the calibration that the plan names, None if it is not available; its texts are left out then.
    """
    return write_card(folder, pruned_card(folder, statistics)).path


def pruned_card(folder: Path, statistics: Statistics | None) -> Rendered:
    """The card as it should be, with what a person wrote into the present one."""
    manifest, plan, verification = (
        fact_of(read_json(folder / name) or {}, folder / name, folder)
        for name in ("manifest.json", "plan.json", "verification.json")
    )
    healing = fact_of(read_json(folder / "healing.json"), folder / "healing.json", folder)
    provenance = fact_of(yaml.safe_load((folder / PROVENANCE).read_text(encoding="utf-8")), folder / PROVENANCE, folder)
    # The statistics are of the original and lie in its own output folder, wherever that is.
    calibration = Fact(dict(statistics.manifest) if statistics else None, "option:artifacts/calibration/manifest.json")
    evaluated = [checkpoint_in(folder, shown(provenance.name, "text"))]
    body, figures = render(
        "pruned.md.j2",
        {
            "provenance": provenance,
            "plan": plan,
            "healing": healing,
            "kept": shown(derived("kept_experts", plan.layers)),
            "experts": plan.layers[0].experts,
            "verification": verification,
            "manifest": manifest,
            "calibration": calibration,
            "base_link": hub_link(shown(provenance.base_model)) if provenance.base_model else "",
            "mine": evaluated,
            "benchmarks": benchmarks_of(evaluated),
            "reap": table("credits.yaml")[0].link,
        },
    )
    fields = {
        **license_fields(provenance, license_file_in(folder)),
        "base_model": provenance.base_model.value,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": sorted({"sixfold", "pruned", "moe", plan.criterion.value}),
    }
    path = folder / CARD
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    return assembled(stated(fields), body, record(figures, {}), old)
