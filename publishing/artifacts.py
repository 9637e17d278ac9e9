"""Artifacts of a run that publishing considers: those with a manifest, and whether each may be published."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixfold.artifact.evaluation_record import GATES as EVALUATION_GATES
from sixfold.artifact.evaluation_record import stored_evaluation
from sixfold.artifact.manifest import artifact_bytes, variant_manifests
from sixfold.artifact.verification_record import stored_result, verdict_of
from sixfold.errors import SixfoldError
from sixfold.name_lists import some
from sixfold.progress import Progress
from sixfold.recipes.recipe_files import closest

MANIFEST = "manifest.json"
_PIECE = 1 << 24


@dataclass(frozen=True)
class Artifact:
    """An artifact with its manifest: a Hugging Face folder, or one GGUF file in a folder that several share."""

    folder: Path
    manifest_name: str
    manifest: Mapping[str, Any]

    @property
    def variant(self) -> str:
        return str(self.manifest["variant"])

    @property
    def is_gguf(self) -> bool:
        return self.manifest_name != MANIFEST

    @property
    def is_base(self) -> bool:
        return bool(self.manifest["recipe"]["exporter"] == "bf16")

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """name -> {bytes, sha256}, as the manifest states them."""
        files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        return files

    @property
    def nbytes(self) -> int:
        """Its size, as cards state it."""
        return artifact_bytes(self.files)


@dataclass(frozen=True)
class Refusal:
    """Why an artifact may not be published. gate: whether quality is the reason."""

    variant: str
    what: str
    remedy: str
    gate: bool = False


def find_artifacts(root: Path) -> tuple[Artifact, ...]:
    """Everything that a recipe made in `root` (<out>/<model>), in the order of a collection: BF16 first, then by size,
    the GGUF files last. Raises SixfoldError where there is nothing."""
    found = [Artifact(path.parent, path.name, manifest) for path, manifest in variant_manifests(root)]
    if not found:
        raise SixfoldError(f"{root} holds no finished artifact", "make some with `sixfold export`")
    return tuple(sorted(found, key=lambda a: (not a.is_base, a.is_gguf, -a.nbytes, a.variant)))


def chosen(artifacts: Sequence[Artifact], variants: Sequence[str]) -> tuple[Artifact, ...]:
    """Those of the named variants, all of them where none is named. Raises SixfoldError for one that is not there."""
    missing = [name for name in variants if name not in {a.variant for a in artifacts}]
    if missing:
        raise SixfoldError(
            f"{artifacts[0].folder.parent} holds no {some(missing)}",
            closest(missing[0], [a.variant for a in artifacts])
            or f"make it with `sixfold export`, or name one of {', '.join(a.variant for a in artifacts)}",
        )
    return tuple(a for a in artifacts if not variants or a.variant in variants)


def unproven(artifact: Artifact) -> Refusal | None:
    """Why its verification blocks publishing, None if it does not."""
    result = stored_result(artifact.folder, artifact.manifest_name)
    if result is None:
        what = "it was not verified, or was made again since"
        return Refusal(artifact.variant, what, "run `sixfold verify --against MODEL` (or make verify)", gate=True)
    if result["gates"] != artifact.manifest["recipe"]["gates"]:
        what = "it was verified under other gates than its recipe has now"
        return Refusal(artifact.variant, what, "run `sixfold verify --against MODEL` (or make verify)", gate=True)
    verdict = verdict_of(result)
    failures = verdict.failures
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        what = f"it failed its checks: {failures[0]}{more}"
        return Refusal(artifact.variant, what, "fix what verification.json reports, and export it again", gate=True)
    if verdict.unmeasured and any(gate is not None for gate in verdict.gates.values()):
        what = f"its gates were not measured: {verdict.unmeasured}"
        return Refusal(artifact.variant, what, "take the gates out of its recipe to publish it without", gate=True)
    return _unproven_answers(artifact)


def _unproven_answers(artifact: Artifact) -> Refusal | None:
    """Where its recipe has gates on its answers."""
    gates = artifact.manifest["recipe"]["gates"]
    asked = [name for name in EVALUATION_GATES if gates.get(name) is not None]
    if not asked:
        return None
    found = stored_evaluation(artifact.folder, artifact.manifest_name) or {}
    if any((found.get("gates") or {}).get(name) != gates[name] for name in asked):
        what = f"its recipe asks for {' and '.join(asked)}, and its answers were not held to that"
        return Refusal(artifact.variant, what, "run `sixfold evaluate` on it and its baseline", gate=True)
    if found["findings"]:
        return Refusal(artifact.variant, f"it failed a gate: {found['findings'][0]}", "see evaluation.json", gate=True)
    return None


def damaged(artifacts: Sequence[Artifact], progress: Progress) -> tuple[Refusal, ...]:
    """Those with a file that is missing or whose sha256 is not the manifest's. Reads every byte."""
    refusals = []
    with progress("checking files", sum(r["bytes"] for a in artifacts for r in a.files.values()), "B") as advance:
        for artifact in artifacts:
            bad = []
            for name, record in artifact.files.items():
                path = artifact.folder / name
                sized = path.is_file() and path.stat().st_size == record["bytes"]
                if not (sized and _sha256(path, advance) == record["sha256"]):
                    bad.append(name)
            if bad:
                what = f"{some(bad)} in {artifact.folder} is missing or differs from {artifact.manifest_name}"
                refusals.append(
                    Refusal(artifact.variant, what, f"make it again: sixfold export MODEL {artifact.variant}")
                )
    return tuple(refusals)


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    """sha256 of a file that may take minutes to read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


def listed(artifacts: Iterable[Artifact]) -> dict[str, Mapping[str, Any]]:
    """Every file that the manifests list, once."""
    return {name: record for artifact in artifacts for name, record in artifact.files.items()}
