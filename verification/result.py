"""verification.json: what was checked of an artifact, and the results.

schema        4
artifact      name, kind ("folder" or "gguf"), files with their bytes, content: digest of the files that its manifest
              lists ("" without one)
source        name and fingerprint of the checkpoint it was compared with; null without one
passed        whether no check found an error and every gate holds
gates         of the recipe: max_kl_ratio, max_mean_kl and min_top1, null where there is none; a default without a
              manifest
allowed       the largest max_mean_kl and the smallest min_top1 that these gates leave, null where there is none
findings      every Finding: check, where, what, consequence, remedy, severity
weights       null without a source; else
  formats       per encoding ("" for what is not quantized): tensors, mean and largest relative error, the limit
  groups        the same per Linear of a layer, experts together ("model.layers.0.mlp.experts.*.up_proj")
  worst         the tensors with the largest relative errors
divergence    null where it was not measured; else tokens, windows, a Score for each run, and plain: one of the source
              rounded plainly to the same formats, null where no gate asks for it; original: null, or where the source
              was pruned and the unpruned model is at hand, its name and fingerprint, and a Score of each run against it
              (layers: of its hidden states; source_perplexity: its own); engine: null, or of a GGUF file what
              llama-server says itself (verification/divergence/engine_answers.py)
smoke         null where it was not reached; else not_run (why), engine (what ran the artifact), and of each prompt its
              rule, what the source and what the artifact answered, whether the rule holds for each (source_holds,
              holds), passed and problem; passed says that it is no worse than the source
              (verification/smoke/smoke_test.py)
tensor_parallel  Linears that 2, 4 or 8 GPUs could not share evenly; null for GGUF
versions      of the libraries that read it
run           seconds; the only entry that differs from run to run

A folder that `sixfold prune` made has a verification.json of pruning's own (pruning/proof/verdict.py); there, this one
is called checkpoint-verification.json.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sixfold.artifact.manifest import beside, is_projector, versions
from sixfold.artifact.verification_record import FILE, SCHEMA, content_digest
from sixfold.artifact.workspace import read_json, write_json
from sixfold.model.source import Source
from sixfold.texts.held_out_text import WINDOW
from verification.divergence.divergence import Divergence, Score, SinceOriginal
from verification.divergence.engine_answers import EngineAnswers
from verification.finding import Finding
from verification.gates import allowed_of
from verification.smoke.smoke_test import Smoke
from verification.weights.format_error import LIMITS
from verification.weights.weight_check import TensorError

WORST = 20
PRUNED = "plan.json"
"""What a folder has that `sixfold prune` made."""

READERS = ("torch", "transformers", "compressed-tensors", "gguf")
"""Libraries that artifacts are read and run with."""

_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class Verification:
    """path: the folder or the GGUF file. files: name -> bytes. errors: None without a source."""

    path: Path
    kind: str
    files: Mapping[str, int]
    source: Source | None
    findings: tuple[Finding, ...]
    errors: tuple[TensorError, ...] | None
    tensor_parallel: Mapping[str, Sequence[str]] | None
    seconds: float
    divergence: Divergence | None = None
    smoke: Smoke | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")


def result_path(path: Path) -> Path:
    """Where the result of an artifact belongs: in its folder, beside a GGUF file."""
    return beside(path, f"checkpoint-{FILE}" if (path / PRUNED).is_file() else FILE)


def write_result(verification: Verification) -> Path:
    path = result_path(verification.path)
    write_json(path, as_data(verification))
    return path


def as_data(verification: Verification) -> dict[str, Any]:
    source = verification.source
    manifest, gates = manifest_of(verification.path), dict(gates_of(verification.path))
    return {
        "schema": SCHEMA,
        "artifact": {
            "name": verification.path.absolute().name,
            "kind": verification.kind,
            "files": dict(sorted(verification.files.items())),
            "content": content_digest(manifest) if manifest else "",
        },
        "source": None
        if source is None
        else {"name": source.checkpoint.name, "fingerprint": source.checkpoint.fingerprint},
        "passed": verification.passed,
        "gates": gates,
        "allowed": {} if verification.divergence is None else allowed_of(verification.divergence.plain, gates),
        "findings": [finding.as_data() for finding in verification.findings],
        "weights": None if verification.errors is None else _weights(verification.errors),
        "divergence": None if verification.divergence is None else _divergence(verification.divergence),
        "smoke": None if verification.smoke is None else verification.smoke.as_data(),
        "tensor_parallel": verification.tensor_parallel,
        "versions": versions(READERS),
        "run": {"seconds": round(verification.seconds, 1)},
    }


def manifest_path(path: Path) -> Path:
    """Of the manifest beside an artifact, whether there is one or not."""
    return beside(path, "manifest.json")


def manifest_of(path: Path) -> dict[str, Any] | None:
    return read_json(manifest_path(path))


def projectors_of(path: Path) -> list[Path]:
    """Files that the artifact's manifest lists for llama.cpp to see with; whether they are there is not asked."""
    listed = (manifest_of(path) or {}).get("files")
    return [path.with_name(name) for name in listed if is_projector(name)] if isinstance(listed, dict) else []


DEFAULT_GATES: Mapping[str, float] = {"max_kl_ratio": 2.0}
"""Of artifacts that no recipe of ours made: see docs/gates.md."""


def gates_of(path: Path) -> Mapping[str, Any]:
    """Of the recipe in the artifact's manifest; the default without a manifest."""
    manifest = manifest_of(path)
    if manifest is None:
        return DEFAULT_GATES
    gates = (manifest.get("recipe") or {}).get("gates")
    return gates if isinstance(gates, Mapping) else {}


def gated_by_recipe(path: Path) -> bool:
    return manifest_of(path) is not None and any(gate is not None for gate in gates_of(path).values())


def divergence_of(data: Mapping[str, Any]) -> Divergence:
    """From verification.json, to six figures."""

    def score(row: Mapping[str, Any]) -> Score:
        return Score(**{**row, "layers": tuple(row["layers"])})

    def scores(rows: Mapping[str, Any]) -> dict[str, Score]:
        return {name: score(row) for name, row in rows.items()}

    since = data["original"]
    return Divergence(
        scores(data["scores"]),
        data["tokens"],
        data["windows"],
        score(data["plain"]) if data["plain"] else None,
        SinceOriginal(since["name"], since["fingerprint"], scores(since["scores"])) if since else None,
        EngineAnswers(**data["engine"]) if data.get("engine") else None,
    )


def _divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "tokens": divergence.tokens,
        "windows": divergence.windows,
        "window": WINDOW,
        "texts": "calibration/texts/heldout",
        "dtype": "float32",
        "scores": {name: _score(score) for name, score in divergence.scores.items()},
        "plain": None if divergence.plain is None else _score(divergence.plain),
        "original": None if divergence.original is None else _since(divergence.original),
        "engine": None if divergence.engine is None else asdict(divergence.engine),
    }


def _since(original: SinceOriginal) -> dict[str, Any]:
    return {
        "name": original.name,
        "fingerprint": original.fingerprint,
        "scores": {name: _score(score) for name, score in original.scores.items()},
    }


def _score(score: Score) -> dict[str, Any]:
    return {
        **_rounded({k: v for k, v in asdict(score).items() if isinstance(v, float)}),
        "domains": _rounded(score.domains),
        "layers": [float(f"{error:.6g}") for error in score.layers],
    }


def _weights(errors: Sequence[TensorError]) -> dict[str, Any]:
    return {
        "formats": by_format(errors),
        "groups": _summaries(errors, lambda error: _EXPERT.sub(".experts.*.", error.name)),
        "worst": [_rounded(error.as_data()) for error in worst(errors)],
    }


def by_format(errors: Sequence[TensorError]) -> list[dict[str, Any]]:
    """One row per encoding, with the limit that a tensor of Gaussian weights is held to."""
    rows = _summaries(errors, lambda error: error.encoding)
    return [{"encoding": r.pop("name"), **r, "limit": _limit(r0)} for r0, r in ((row["name"], row) for row in rows)]


def _limit(encoding: str) -> float:
    return LIMITS[encoding].relative if encoding in LIMITS else 0.0


def worst(errors: Sequence[TensorError]) -> list[TensorError]:
    return sorted(errors, key=lambda error: -error.relative)[:WORST]


def _summaries(errors: Sequence[TensorError], key: Any) -> list[dict[str, Any]]:
    groups: dict[str, list[TensorError]] = {}
    for error in errors:
        groups.setdefault(key(error), []).append(error)
    return [
        _rounded(
            {
                "name": name,
                "tensors": len(found),
                "mean": sum(error.relative for error in found) / len(found),
                "largest": max(error.relative for error in found),
            }
        )
        for name, found in groups.items()
    ]


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Six figures: more would only tell one machine's order of summation from another's."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
