"""Everything that is on disk about a model's artifacts, read once: what cards, reports and publishing state.

Nothing here is computed from weights. A result for other files than the artifact's present ones counts as missing.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sixfold.artifact.evaluation_record import SPEED, evaluation_name, evaluation_of
from sixfold.artifact.manifest import artifact_bytes, is_projector, manifest_paths, variant_manifests
from sixfold.artifact.source_record import FILE as SOURCE
from sixfold.artifact.source_record import FOLDER as SOURCE_FOLDER
from sixfold.artifact.source_record import PRUNING
from sixfold.artifact.verification_record import Verdict, stored_result, verdict_name, verdict_of
from sixfold.artifact.workspace import CALIBRATION, read_json
from sixfold.checkpoint.provenance import Provenance
from sixfold.errors import SixfoldError
from sixfold.recipes.budget import Budget
from sixfold.statistics.statistics import Statistics, existing_statistics

_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class ArtifactFacts:
    """One artifact: a Hugging Face folder, or one GGUF file of a folder that holds several.

    recipe, title: name and title of its recipe. file: name of the GGUF file, None of a folder. nbytes: its size as
    artifact_bytes has it; weight_nbytes: of those that hold weights. manifest, verification, evaluation, speed,
    config, run: the files' content, None (config: {}) where there is none; config is that of the source for GGUF.
    statistics: the calibration that the manifest names, None where it used none or it is not there any more.
    """

    folder: Path
    manifest_name: str
    manifest: dict[str, Any]
    verification: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    speed: dict[str, Any] | None
    config: dict[str, Any]
    config_path: Path
    run: dict[str, Any] | None
    statistics: Statistics | None

    @property
    def recipe(self) -> str:
        return str(self.manifest["recipe"]["name"])

    @property
    def title(self) -> str:
        return str(self.manifest["recipe"]["title"])

    @property
    def exporter(self) -> str:
        return str(self.manifest["recipe"]["exporter"])

    @property
    def scheme(self) -> str:
        return str(self.manifest["recipe"]["scheme"])

    @property
    def file(self) -> str | None:
        return None if self.manifest_name == "manifest.json" else self.manifest_name.removesuffix(".manifest.json")

    @property
    def label(self) -> str:
        """What tells it from its siblings: "FP8", "Q4_K_M", "AUTO-4.5bpw"."""
        recipe = self.manifest["recipe"]
        if self.file is not None and recipe.get("budget"):
            return f"{recipe['scheme']}-{Budget.model_validate(recipe['budget']).label}"
        return str(recipe["suffix"] if self.file is None else recipe["scheme"])

    @property
    def nbytes(self) -> int:
        return artifact_bytes(self.manifest["files"])

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Without a projector, which the language model runs without."""
        return tuple(name for name in self.manifest["files"] if name.endswith(_WEIGHTS) and not is_projector(name))

    @property
    def weight_nbytes(self) -> int:
        return sum(self.manifest["files"][name]["bytes"] for name in self.weight_files)

    @cached_property
    def verdict(self) -> Verdict | None:
        """None where the artifact as it is now was not verified."""
        return None if self.verification is None else verdict_of(self.verification)

    @property
    def manifest_path(self) -> Path:
        return self.folder / self.manifest_name

    @property
    def verification_path(self) -> Path:
        return self.folder / verdict_name(self.manifest_name)

    @property
    def evaluation_path(self) -> Path:
        return self.folder / evaluation_name(self.manifest_name)

    @property
    def speed_path(self) -> Path:
        return self.folder / evaluation_name(self.manifest_name, SPEED)


@dataclass(frozen=True)
class PruningFacts:
    """What `sixfold prune` left beside the checkpoint (pruning.choosing.plan_file, pruning.proof.verdict)."""

    folder: Path
    manifest: dict[str, Any]
    plan: dict[str, Any]
    verification: dict[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """All artifacts of one checkpoint, largest first, the GGUF files last.

    source: source/source.json, {} where an older version made the artifacts. config: of the source, {} where unknown.
    calibration: manifest of the statistics of the default profile, None where there are none.
    """

    root: Path
    name: str
    source: dict[str, Any]
    config: dict[str, Any]
    provenance: Provenance
    artifacts: tuple[ArtifactFacts, ...]
    calibration: dict[str, Any] | None
    pruning: PruningFacts | None

    @property
    def hub_id(self) -> str:
        """The checkpoint's id on the Hub, if known; "" for a local folder."""
        return str(self.source.get("hub", ""))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Each folder once, in the order of the artifacts."""
        return tuple(dict.fromkeys(artifact.folder for artifact in self.artifacts))

    def without(self, folder: Path, recipes: Collection[str]) -> "ModelFacts":
        """As if these artifacts of the folder had not been made."""
        left = [a for a in self.artifacts if a.folder != folder or a.recipe not in recipes]
        return replace(self, artifacts=tuple(left))

    def of(self, folder: Path) -> tuple[ArtifactFacts, ...]:
        """The artifacts in one folder."""
        return tuple(artifact for artifact in self.artifacts if artifact.folder == folder)


def read_model(root: Path) -> ModelFacts:
    """root: <out>/<model>, as a run leaves it. Raises SixfoldError where no finished artifact is in it."""
    source_folder = root / SOURCE_FOLDER
    source = read_json(source_folder / SOURCE) or {}
    statistics = {found.digest: found for found in _calibrations(root / CALIBRATION)}
    artifacts = [_artifact(*found, source_folder, statistics) for found in variant_manifests(root)]
    if not artifacts:
        raise SixfoldError(f"{root} holds no finished artifact", "make one with `sixfold export MODEL`")
    artifacts.sort(key=lambda a: (a.file is not None, -a.nbytes))
    return ModelFacts(
        root=root,
        name=str(artifacts[0].manifest["model"]),
        source=source,
        config=read_json(source_folder / "config.json") or next((a.config for a in artifacts if a.config), {}),
        provenance=Provenance(**source.get("provenance", {})),
        artifacts=tuple(artifacts),
        calibration=read_json(root / CALIBRATION / "manifest.json"),
        pruning=_pruning(source_folder / PRUNING),
    )


def is_model_folder(folder: Path) -> bool:
    """Whether `read_model` finds artifacts there."""
    return any("recipe" in (read_json(path) or {}) for path in manifest_paths(folder))


def _artifact(path: Path, manifest: dict[str, Any], source: Path, statistics: dict[str, Statistics]) -> ArtifactFacts:
    folder, name = path.parent, path.name
    own = folder / "config.json"
    config_path = own if own.is_file() else source / "config.json"
    return ArtifactFacts(
        folder=folder,
        manifest_name=name,
        manifest=manifest,
        verification=stored_result(folder, name),
        evaluation=evaluation_of(folder / evaluation_name(name), manifest),
        speed=evaluation_of(folder / evaluation_name(name, SPEED), manifest),
        config=read_json(config_path) or {},
        config_path=config_path,
        run=read_json(folder / (name.removesuffix("manifest.json") + "run.json")),
        statistics=statistics.get(manifest["statistics"]),
    )


def _calibrations(folder: Path) -> Iterator[Statistics]:
    """Of the default profile and of all others."""
    for candidate in (folder, *sorted(folder.glob("profile-*"))):
        found = existing_statistics(candidate)
        if found is not None:
            yield found


def _pruning(folder: Path) -> PruningFacts | None:
    manifest, plan, verification = (read_json(folder / f"{name}.json") for name in ("manifest", "plan", "verification"))
    if manifest is None or plan is None or verification is None:
        return None
    return PruningFacts(folder, manifest, plan, verification)
