"""The result stored beside an artifact, if it is still valid: measuring again would only cost time."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from sixfold import __version__
from sixfold.artifact.manifest import damaged_files, run_name
from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.artifact.verification_record import stored_result
from sixfold.artifact.workspace import read_json, write_json
from sixfold.model.source import Source
from sixfold.progress import Progress, unseen
from sixfold.runner.engine import HERE, Engine, Needs
from verification.divergence.unpruned import can_be_run
from verification.gates import allowed_of, check_gates
from verification.judge import judge, judge_all
from verification.on_gpus import judged_on_gpus
from verification.result import (
    Verification,
    as_data,
    divergence_of,
    gates_of,
    manifest_of,
    manifest_path,
    result_path,
    write_result,
)

_WHOLE = 1 << 20
"""Cores: more than a machine has, which is all of it."""


def judged_all(
    paths: Sequence[Path], source: Source, progress: Progress, engine: Engine = HERE
) -> list[dict[str, Any]]:
    """verification.json of artifacts with manifests: what is there if it holds, else of a verification now, of all for
    which it does not hold together, shared out among several GPUs; by an engine that is away, of each by itself.

    Where only the recipe's gates were moved, they are applied to what was measured. Raises as `judge_all` does.
    """
    found = {path: _current(path, source) for path in paths}
    missing = [path for path, result in found.items() if result is None]
    for verification in _judged(missing, source, progress, engine) if missing else ():
        write_result(verification)
        found[verification.path] = as_data(verification)
    return [result for path in paths if (result := found[path]) is not None]


def _judged(paths: Sequence[Path], source: Source, progress: Progress, engine: Engine) -> list[Verification]:
    if engine.away:
        return _judged_away(engine, paths, source, progress)
    processes = min(torch.cuda.device_count(), len(paths))
    return judged_on_gpus(paths, source, progress, processes) if processes > 1 else judge_all(paths, source, progress)


def _judged_away(engine: Engine, paths: Sequence[Path], source: Source, progress: Progress) -> list[Verification]:
    """Variants are units of work: each reads and runs the source as well, and has a machine or a GPU to itself."""
    given, needs = engine.share(source), Needs(cores=_WHOLE, gpus=1.0 if engine.gpus else 0.0)
    threads = torch.get_num_threads()  # of which the last bits depend
    with progress("verifying", len(paths), "variants") as advance, ThreadPoolExecutor(len(paths)) as asking:

        def judged(path: Path) -> Verification:
            found: Verification = engine.call(_alone, given, path, threads, needs=needs)
            advance(1)
            return found

        return list(asking.map(judged, paths))


def _alone(source: Source, path: Path, threads: int) -> Verification:
    with torch_threads(threads):
        return judge(path, source, unseen)


def _current(path: Path, source: Source) -> dict[str, Any] | None:
    """The result that is there, by the recipe's gates of now; None where it has to be measured again."""
    found = _holding(path, source)
    if found is None or _lacks_original(found, source):
        return None
    gates = dict(gates_of(path))
    if found["gates"] != gates:
        divergence = found["divergence"]
        if divergence is not None and divergence["plain"] is None and gates.get("max_kl_ratio") is not None:
            return None
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


def _lacks_original(found: Mapping[str, Any], source: Source) -> bool:
    """Whether the unpruned model, which was not at hand before, can be compared with now."""
    measured = found["divergence"]
    return measured is not None and measured["original"] is None and can_be_run(source)


def _gated(found: Mapping[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    """With the findings of these gates in place of those of the gates before."""
    findings = [finding for finding in found["findings"] if finding["check"] != "gate.failed"]
    allowed: dict[str, Any] = {}
    if found["divergence"] is not None:
        divergence = divergence_of(found["divergence"])
        allowed = allowed_of(divergence.plain, gates)
        findings = [*(finding.as_data() for finding in check_gates(divergence, gates)), *findings]
    passed = all(finding["severity"] != "error" for finding in findings)
    return {**found, "passed": passed, "gates": gates, "allowed": allowed, "findings": findings}


def _checks(found: Mapping[str, Any]) -> set[str]:
    return {finding["check"] for finding in found["findings"]}
