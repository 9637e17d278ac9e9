"""The result stored beside an artifact, if it is still valid: measuring again would only cost time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sixfold import __version__
from sixfold.artifact.manifest import damaged_files, run_name
from sixfold.artifact.verification_record import stored_result
from sixfold.artifact.workspace import read_json, write_json
from sixfold.model.source import Source
from sixfold.progress import Progress
from verification.judge import check_gates, judge
from verification.result import as_data, divergence_of, gates_of, manifest_of, manifest_path, result_path, write_result


def judged(path: Path, source: Source, progress: Progress) -> dict[str, Any]:
    """verification.json of an artifact with a manifest: what is there if it holds, else of a verification now.

    Where only the recipe's gates were moved, they are applied to what was measured. Raises as `judge` does.
    """
    found = _holding(path, source)
    if found is None:
        verification = judge(path, source, progress)
        write_result(verification)
        return as_data(verification)
    gates = dict(gates_of(path))
    if found["gates"] != gates:
        found = _gated(found, gates)
        write_json(result_path(path), found)
    return found


def _holding(path: Path, source: Source) -> dict[str, Any] | None:
    """None where the artifact, its source or this project's version is another, or where a file was touched."""
    manifest = manifest_path(path)
    found = stored_result(manifest.parent, manifest.name)
    if found is None or found["source"]["fingerprint"] != source.checkpoint.fingerprint:
        return None
    if found["versions"]["sixfold"] != __version__ or "divergence.not-measured" in _checks(found):
        return None
    run = read_json(manifest.with_name(run_name(manifest.name)))
    damaged = damaged_files(manifest.parent, manifest_of(path) or {"files": {}}, run)
    return None if damaged else found


def _gated(found: Mapping[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    """With the findings of these gates in place of those of the gates before."""
    findings = [finding for finding in found["findings"] if finding["check"] != "gate.failed"]
    if found["divergence"] is not None:
        failed = check_gates(divergence_of(found["divergence"]), gates)
        findings = [*(finding.as_data() for finding in failed), *findings]
    passed = all(finding["severity"] != "error" for finding in findings)
    return {**found, "passed": passed, "gates": gates, "findings": findings}


def _checks(found: Mapping[str, Any]) -> set[str]:
    return {finding["check"] for finding in found["findings"]}
