"""The card of a pruned checkpoint says what the files beside it say, and nothing that nobody stated."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from cards.facts.origins import wrong_figures
from cards.model_card.pruned import write_pruned_card
from sixfold.artifact.verification_record import content_digest
from sixfold.checkpoint.provenance import Provenance, provenance_text
from sixfold.statistics.statistics import Statistics
from tests.cards.model_card.test_card import evaluation

STATED = Provenance(
    name="Tiny-REAP-3",
    base_model="someone/Tiny",
    license="other",
    license_name="their-license",
    license_link="LICENSE",
    method="1 of 4 experts pruned",
    authors="a small lab",
)
PLAN = {
    "model": "Tiny",
    "criterion": "reap",
    "ratio": 0.25,
    "budget": "layer",
    "seed": 0,
    "statistics": {"digest": "d" * 64, "profile": {}},
    "layers": [{"layer": 0, "experts": 4, "kept": [0, 1, 3]}],
}
COST = {"tokens": 99, "perplexity_before": 10.0, "perplexity_after": 12.346, "kl": 0.2512, "top1": 0.7251}
VERDICT = {
    "before": {"bytes": 2_000_000_000, "parameters": 1_000_000_000, "active": 500_000_000},
    "after": {"bytes": 1_600_000_000, "parameters": 800_000_000, "active": 500_000_000},
    "masked": {"sound": True, "tokens": 100, "tolerance": 1e-3, "layers": [{"layer": 0, "largest": 3.21e-7}]},
    "cost": {"code": COST, "all": COST},
}
MANIFEST = {
    "notes": ["Something a reader should know."],
    "files": {"model.safetensors": {"bytes": 1_600_000_123, "sha256": "a" * 64}},
    "versions": {"sixfold": "0.1.0"},
}


def card(folder: Path, provenance: Provenance = STATED, statistics: Statistics | None = None, **verdict: Any) -> str:
    (folder / "provenance.yaml").write_bytes(provenance_text(provenance))
    for name, facts in (("plan", PLAN), ("manifest", MANIFEST), ("verification", {**VERDICT, **verdict})):
        (folder / f"{name}.json").write_text(json.dumps(facts))
    return write_pruned_card(folder, statistics).read_text()


def test_sizes_and_cost_are_those_of_the_files(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "| weights (decimal) | 2 GB | 1.6 GB |" in text
    assert "| parameters | 1 billion | 0.8 billion |" in text
    assert "| experts per layer | 4 | 3 |" in text
    assert "| code | 99 | 10.00 | 12.35 | 0.2512 | 72.5% |" in text
    assert f"| `model.safetensors` | 1,600,000,123 | `{'a' * 64}` |" in text
    assert "largest difference 3.2e-07" in text
    assert "- Something a reader should know." in text


def test_a_healed_card_says_what_was_refitted_and_what_it_brought(tmp_path: Path) -> None:
    assert "nothing was trained afterwards" in card(tmp_path)
    fits = [
        {"layer": 0, "damping": 0.3, "held_back": 0.8, "before": 0.4321, "after": 0.2109},
        {"layer": 1, "damping": None, "held_back": 1.0, "before": 0.5, "after": 0.5},
    ]
    record = {"texts": {"tokens": 131072, "random": 32768, "kinds": 6}, "layers": fits}
    (tmp_path / "healing.json").write_text(json.dumps(record))
    changes = [{"layer": n, "tensors": 3, "mean": 0.0456, "largest": 0.1} for n in (0, 1)]
    plain = {**COST, "kl": 0.3456, "top1": 0.7}
    healed = {"layers": changes, "errors": [], "plain": {"code": plain, "all": plain}}
    text = card(tmp_path, healed=healed)
    assert "were refitted by least squares" in text
    assert "refitted to 131,072 tokens of calibration text" in text
    assert "leaving each of 6 kinds of text out in turn" in text
    assert "| 0 | 0.3 | 0.432 | 0.211 | 0.046 |" in text
    assert "| 1 | not refitted | 0.500 | 0.500 | 0.046 |" in text
    assert "Before the refit, every layer gives the same output" in text
    assert "| code | 99 | 10.00 | 12.35 | 0.2512 | 72.5% | 0.3456 | 70.0% |" in text
    assert not wrong_figures(text, tmp_path)


def test_front_matter_carries_the_license(tmp_path: Path) -> None:
    data = ModelCard(card(tmp_path)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "their-license", "LICENSE")
    assert data.base_model == "someone/Tiny"
    assert {"pruned", "reap"} <= set(data.tags)


def test_what_nobody_stated_is_left_out(tmp_path: Path) -> None:
    text = card(tmp_path, provenance=Provenance(name="Tiny-REAP-3"))
    assert "license" not in text
    for absent in ("By:", "How it was made", "The original"):
        assert absent not in text


def test_texts_are_told_by_domain(tmp_path: Path) -> None:
    tokens = {"samples": 64, "length": 512, "domains": {"code": {"samples": 40}, "prose": {"samples": 24}}}
    text = card(tmp_path, statistics=Statistics(tmp_path, {"tokens": tokens}))
    assert "Saliency was measured on 32,768 tokens (64 samples of 512)" in text
    assert "| code | 40 |" in text
    assert "Saliency was measured on" not in card(tmp_path)


def test_every_figure_is_in_its_file(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert wrong_figures(text, tmp_path) == ()
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN, "ratio": 0.5}))
    (wrong,) = wrong_figures(text, tmp_path)
    assert "'25%' is 0.5 in plan.json#/ratio" in wrong


@pytest.mark.parametrize(
    ("masked", "sentence"),
    [(None, "It was not compared with the original."), ({**VERDICT["masked"], "sound": False}, "**Not sound**")],
)
def test_what_was_not_proven_is_not_claimed(masked: Any, sentence: str, tmp_path: Path) -> None:
    text = card(tmp_path, masked=masked)
    assert sentence in text
    assert "Every layer matches the original" not in text


def test_whether_its_answers_end_stands_on_the_card(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation(content_digest(MANIFEST))))
    text = card(tmp_path)
    assert "| Tiny-REAP-3 | 238 of 240 (99.2%; 97.0% to 99.9%) | 2 (0.8%; 0.1% to 3.0%) | 412 | 4,096 | 0.7 |" in text
    assert "| Tiny-REAP-3 | 120 of 164 (73.2%; 65.7% to 79.8%) |" in text
    assert not wrong_figures(text, tmp_path)
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation("of other files")))
    assert "Evaluation" not in card(tmp_path)
