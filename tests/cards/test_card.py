"""A card shows what its manifests say, and nothing that nobody stated."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from cards.card import write_card
from sixfold.checkpoint import Provenance
from sixfold.statistics import Statistics
from sixfold.verdict import SCHEMA, content_digest

STATED = Provenance(
    name="Tiny",
    base_model="someone/Original",
    license="other",
    license_name="their-licence",
    license_link="LICENSE",
    method="25 % of the experts pruned with REAP",
    authors="a small lab",
)


def manifest(**changes: Any) -> dict[str, Any]:
    recipe = {
        "name": "fp8",
        "suffix": "FP8",
        "title": "FP8 weights",
        "exporter": "fp8",
        "scheme": "FP8_DYNAMIC",
        "engines": ["vLLM"],
    }
    return {
        "source": {"fingerprint": "f" * 64},
        "variant": "fp8",
        "model": "Tiny",
        "recipe": recipe,
        "recipe_digest": "d" * 64,
        "statistics": None,
        "versions": {"sixfold": "0.1.0"},
        "notes": ["2 Linears stay in BF16."],
        "files": {"model.safetensors": {"bytes": 1234567890, "sha256": "a" * 64}},
        **changes,
    }


def card(
    folder: Path, *manifests: dict[str, Any], provenance: Provenance = STATED, statistics: Statistics | None = None
) -> str:
    for i, content in enumerate(manifests):
        name = "manifest.json" if len(manifests) == 1 else f"{i}.gguf.manifest.json"
        (folder / name).write_text(json.dumps(content))
    return write_card(folder, provenance, statistics).read_text()


def test_every_file_with_its_exact_size_and_every_note(tmp_path: Path) -> None:
    text = card(tmp_path, manifest())
    assert "| `model.safetensors` | 1.23 GB | 1234567890 | `aaaaaaaaaaaaaaaa...` |" in text
    assert "2 Linears stay in BF16." in text
    assert "had not been measured when this card was written" in text


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = ModelCard(card(tmp_path, manifest())).data
    assert (data.license, data.license_name, data.license_link) == ("other", "their-licence", "LICENSE")
    assert (data.base_model, data.to_dict()["base_model_relation"]) == ("someone/Original", "quantized")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["fp8_dynamic", "sixfold"]


def test_what_nobody_stated_is_left_out(tmp_path: Path) -> None:
    text = card(tmp_path, manifest(), provenance=Provenance())
    assert "license" not in text
    assert "base_model" not in text
    assert "comes from" not in text
    assert "Credit" not in text
    assert "Calibrated" not in text


def test_calibration_is_named_only_where_it_was_used(tmp_path: Path) -> None:
    text = {"licence": "MIT", "tokens": 32768, "rows": 70, "overlap": {}}
    dataset = {"licence": "", "tokens": 9, "rows": 1, "overlap": {"HumanEval": 3}, "revision": "0123456789abcdef"}
    files = {"own.txt": text, "lab/set:train": dataset, "unused.txt": {**text, "tokens": 0}}
    tokens = {"samples": 64, "length": 512, "files": files}
    statistics = Statistics(tmp_path, {"tokens": tokens, "files": {"layer-00000.safetensors": {"sha256": "b" * 64}}})
    used = card(tmp_path, manifest(statistics=statistics.digest), statistics=statistics)
    assert "Calibrated (fp8) on 32768 tokens (64 samples of 512)" in used
    assert "own.txt (MIT): 32768 tokens of 70 rows" in used
    assert "lab/set:train at 0123456789ab: 9 tokens of 1 row\n" in used
    assert "shares 3 sequences of thirteen words with HumanEval" in used
    assert "unused.txt" not in used
    assert f"`{statistics.digest[:16]}`" in used
    assert "Calibrated" not in card(tmp_path, manifest(), statistics=statistics)
    assert "Calibrated" not in card(tmp_path, manifest(statistics="c" * 64), statistics=statistics)


def test_one_card_for_all_gguf_files_smallest_first(tmp_path: Path) -> None:
    large = manifest(files={"large.gguf": {"bytes": 20, "sha256": "a" * 64}})
    small = manifest(files={"small.gguf": {"bytes": 10, "sha256": "b" * 64}})
    text = card(tmp_path, large, small)
    assert text.index("small.gguf") < text.index("large.gguf")


def result(of: dict[str, Any], mean_kl: float, **changes: Any) -> dict[str, Any]:
    """verification.json of a manifest's artifact, as far as a card reads it."""
    weights = {"mean_kl": 0.01, "top1": 0.99, "perplexity": 13.7, "source_perplexity": 13.6}
    return {
        "schema": SCHEMA,
        "artifact": {"content": content_digest(of)},
        "source": of["source"],
        "gates": {"max_mean_kl": 0.03, "min_top1": None},
        "findings": [],
        "divergence": {"tokens": 20000, "scores": {"weights": weights, "engine": {**weights, "mean_kl": mean_kl}}},
        **changes,
    }


def test_quality_is_what_was_measured_of_these_files(tmp_path: Path) -> None:
    (tmp_path / "verification.json").write_text(json.dumps(result(manifest(), 0.0234567)))
    assert "| `fp8` | 0.01000 | 0.02346 | 0.03 | 0.9900 | - | 13.700 | 13.600 |" in card(tmp_path, manifest())
    changed = manifest(files={"model.safetensors": {"bytes": 1, "sha256": "b" * 64}})
    assert "0.02346" not in card(tmp_path, changed)
    assert "0.02346" not in card(tmp_path, manifest(source={"fingerprint": "e" * 64}))


def test_a_failed_gate_stands_on_the_card(tmp_path: Path) -> None:
    finding = {"check": "gate.failed", "where": "gates.max_mean_kl", "what": "the mean KL is 0.5", "severity": "error"}
    failed = result(manifest(), 0.5, findings=[finding])
    (tmp_path / "verification.json").write_text(json.dumps(failed))
    assert "**Not sound:** gates.max_mean_kl: the mean KL is 0.5.\n" in card(tmp_path, manifest())


@pytest.mark.parametrize("nbytes", [1, 999, 5_000_000_001])
def test_a_changed_fact_changes_the_card(tmp_path: Path, nbytes: int) -> None:
    changed = manifest(files={"model.safetensors": {"bytes": nbytes, "sha256": "a" * 64}})
    assert f"| {nbytes} |" in card(tmp_path, changed)
