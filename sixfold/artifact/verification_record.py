"""verification.json for readers other than verification: whether it is about the artifact, and its figures.

verification/result.py documents the file and writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixfold.artifact.workspace import digest_of, read_json

SCHEMA = 4
FILE = "verification.json"


@dataclass(frozen=True)
class Verdict:
    """failures: "where: what" of every error. weights: the run with weights alone; as_run: with inputs rounded as the
    engine rounds them, where it does (keys of verification.divergence.divergence.Score); None where nothing was
    measured, and `unmeasured` says why. since_original: as_run against the unpruned model, None where the source is not
    a pruned one or that model was not at hand. gates: as the recipe states them. allowed: the largest mean KL and the
    smallest top-1 agreement that they leave."""

    failures: tuple[str, ...]
    weights: Mapping[str, Any] | None
    as_run: Mapping[str, Any] | None
    since_original: Mapping[str, Any] | None
    unmeasured: str
    tokens: int
    gates: Mapping[str, float | None]
    allowed: Mapping[str, float | None]

    @property
    def passed(self) -> bool:
        return not self.failures


def verdict_name(manifest_name: str) -> str:
    """manifest.json -> verification.json; X.gguf.manifest.json -> X.gguf.verification.json."""
    return manifest_name.removesuffix("manifest.json") + FILE


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Of the files that a manifest lists, with their hashes: not of its words, which change no byte."""
    return digest_of(manifest.get("files"))


def stored_result(folder: Path, manifest_name: str) -> dict[str, Any] | None:
    """Beside an artifact that a recipe made, if it is of the files that the manifest lists and of its source."""
    manifest, found = read_json(folder / manifest_name), read_json(folder / verdict_name(manifest_name))
    if manifest is None or found is None or found.get("schema") != SCHEMA:
        return None
    if found["source"] is None or found["source"]["fingerprint"] != manifest["source"]["fingerprint"]:
        return None
    return found if found["artifact"]["content"] == content_digest(manifest) else None


def verdict_of(result: Mapping[str, Any]) -> Verdict:
    divergence = result["divergence"] or {}
    scores = divergence.get("scores", {})
    since = (divergence.get("original") or {}).get("scores", {})
    unmeasured = [f["what"] for f in result["findings"] if f["check"] == "divergence.not-measured"]
    return Verdict(
        failures=tuple(f"{f['where']}: {f['what']}" for f in result["findings"] if f["severity"] == "error"),
        weights=scores.get("weights"),
        as_run=scores.get("engine", scores.get("weights")),
        since_original=since.get("engine", since.get("weights")),
        unmeasured="" if scores else next(iter(unmeasured), "the checks before it failed"),
        tokens=divergence.get("tokens", 0),
        gates=result["gates"],
        allowed=result["allowed"],
    )
