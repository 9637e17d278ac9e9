"""manifest.json: what an artifact was made from and what it consists of; deterministic, and written last.

What differs from run to run (times, memory, host, file times) is in run.json beside it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sixfold import __version__
from sixfold.artifact.plan import PROJECTOR
from sixfold.artifact.source_record import FOLDER as SOURCE
from sixfold.artifact.workspace import CALIBRATION, PARTIAL, digest_of, read_json, sha256_of
from sixfold.errors import SixfoldError
from sixfold.recipes.recipe import Recipe

SCHEMA = 1
EVERY_ARTIFACT = ("torch", "transformers")
"""Libraries that have a part in the bytes of every artifact: transformers says what each tensor is to the model, and
torch reads, casts and computes. What only some formats are made with, their exporters name (exporters/protocol.py)."""
_WORDS = ("title", "engines", "hardware", "gates")
"""Keys of a recipe that describe the artifact and change none of its bytes."""


@dataclass(frozen=True)
class FileRecord:
    bytes: int
    sha256: str


def file_record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of(path))


def inputs_of(
    recipe: Recipe, fingerprint: str, revision: str, statistics: str | None, libraries: Iterable[str] = ()
) -> dict[str, Any]:
    """Everything that decides an artifact's bytes, most general first.

    libraries: those whose code has a part in them, beyond EVERY_ARTIFACT.
    """
    return {
        "source": {"fingerprint": fingerprint, "revision": revision},
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": digest_of(recipe.model_dump(mode="json")),
        "statistics": statistics,
        "versions": versions((*EVERY_ARTIFACT, *libraries)),
    }


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Of this project, and of those of `libraries` (names of distributions) that are installed."""
    found = {"sixfold": __version__}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def manifest_of(
    variant: str,
    source_name: str,
    inputs: Mapping[str, Any],
    decisions: str | None,
    files: Mapping[str, FileRecord],
    notes: tuple[str, ...],
    device: str | None = None,
) -> dict[str, Any]:
    """device: that errors were compensated on, whose float sums decide the bytes; None where none were."""
    return {
        "schema": SCHEMA,
        "variant": variant,
        "model": source_name,
        **inputs,
        "decisions": decisions,
        **({} if device is None else {"device": device}),
        "notes": list(notes),
        "files": {name: {"bytes": r.bytes, "sha256": r.sha256} for name, r in sorted(files.items())},
    }


def is_projector(name: str) -> bool:
    """Whether a file is what a model sees with, beside the GGUF files of its language model."""
    return name.startswith(PROJECTOR) and name.endswith(".gguf")


def artifact_bytes(files: Mapping[str, Mapping[str, Any]]) -> int:
    """What an artifact is said to have: its files together, in bytes; of a GGUF the file (or its parts) alone, which is
    what a reader downloads. The license and the projector beside it belong to all that share the folder.

    files: of its manifest.
    """
    apart = [record for name, record in files.items() if name.endswith(".gguf") and not is_projector(name)]
    return sum(int(record["bytes"]) for record in apart or files.values())


def changed_inputs(manifest: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    """Dotted keys of the inputs that differ from what the manifest records; empty where the artifact is current.

    What only describes the artifact (a recipe's title, its gates) makes nothing stale: see `described_anew`. Nor does a
    library that the inputs do not name: it had no part in the artifact, or is not installed here.
    """
    keys = [key for key in inputs if key != "recipe_digest"]
    recorded = {key: manifest.get(key) for key in keys}
    if isinstance(versions := recorded.get("versions"), Mapping):
        recorded["versions"] = {name: versions.get(name) for name in inputs["versions"]}
    changed = _differences(recorded, {key: inputs[key] for key in keys}, "")
    return [key for key in changed if not key.startswith(tuple(f"recipe.{word}" for word in _WORDS))]


def described_anew(manifest: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a current artifact with the recipe's present descriptions; None if they are the same."""
    changed = {**manifest, "recipe": inputs["recipe"], "recipe_digest": inputs["recipe_digest"]}
    return changed if changed != manifest else None


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [path]


def damaged_files(folder: Path, manifest: Mapping[str, Any], run: Mapping[str, Any] | None) -> list[str]:
    """Files that are missing or differ from the manifest.

    A file whose size and modification time are those that this project left is taken as unchanged; any other is hashed.
    """
    times = (run or {}).get("modified_ns", {})
    bad = []
    for name, record in manifest["files"].items():
        path = folder / name
        known = _is_inside(name) and isinstance(record, dict)
        sound = known and path.is_file() and path.stat().st_size == record.get("bytes")
        if not (sound and (path.stat().st_mtime_ns == times.get(name) or sha256_of(path) == record.get("sha256"))):
            bad.append(name)
    return bad


def _is_inside(name: str) -> bool:
    """Whether a name that a manifest lists can be that of a file in its folder."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts) and len(name) <= 4096


@dataclass(frozen=True)
class State:
    """State of a variant: "missing", "partial", "stale", "damaged" or "current", and why."""

    name: str
    reasons: tuple[str, ...] = ()


def state_of(folder: Path, manifest_name: str, inputs: Mapping[str, Any] | None, begun: Path | None = None) -> State:
    """`inputs` None: do not check whether the artifact is stale (its source is not available).

    begun: what exists if the work was begun: the folder itself by default, something else where artifacts share it.
    """
    manifest = read_json(folder / manifest_name)
    if manifest is None:
        unfinished = (begun or folder).is_dir()
        return State("partial", ("no manifest: the run did not finish",)) if unfinished else State("missing")
    if not isinstance(manifest.get("files"), dict):
        return State("damaged", (f"{manifest_name} is no manifest",))
    changed = changed_inputs(manifest, inputs) if inputs is not None else []
    if changed:
        return State("stale", tuple(f"{key} changed" for key in changed))
    bad = damaged_files(folder, manifest, read_json(folder / run_name(manifest_name)))
    if bad:
        return State("damaged", tuple(f"{name} is missing or differs from the manifest" for name in bad))
    return State("current")


def beside(artifact: Path, name: str) -> Path:
    """Where the file `name` of an artifact belongs: in its folder, or beside its GGUF file as X.gguf.<name>."""
    return artifact / name if artifact.is_dir() else artifact.with_name(f"{artifact.name}.{name}")


def run_name(manifest_name: str) -> str:
    """manifest.json -> run.json; X.gguf.manifest.json -> X.gguf.run.json."""
    return manifest_name.removesuffix("manifest.json") + "run.json"


def variant_manifests(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The manifest of every finished variant in `root` (<out>/<model>), by path.

    Raises SixfoldError for one that cannot be read: what it describes must not silently be left out.
    """
    for path in manifest_paths(root):
        manifest = read_json(path) or {}
        if not {"recipe", "files"} <= manifest.keys():
            raise SixfoldError(
                f"{path} cannot be read as the manifest of a variant",
                "make the variant again with `sixfold export`, or remove its folder",
            )
        yield path, manifest


def manifest_paths(root: Path) -> list[Path]:
    """Where variants have their manifests; not those of calibration, of the source or of what is unfinished."""
    found = sorted(root.glob("*/*manifest.json"))
    return [path for path in found if path.parent.name not in (CALIBRATION, SOURCE, PARTIAL)]
