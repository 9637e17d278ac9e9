"""What is evaluated: an artifact on disk, or whatever an endpoint serves; and where its results belong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixfold.artifact.manifest import beside, damaged_files
from sixfold.artifact.plan import PROJECTOR
from sixfold.artifact.verification_record import content_digest
from sixfold.artifact.workspace import digest_of, read_json, sha256_of
from sixfold.checkpoint.carried_files import carried_files
from sixfold.checkpoint.fingerprint import folder_fingerprint
from sixfold.checkpoint.location import CONFIG
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.errors import SixfoldError, UsageError

MANIFEST = "manifest.json"
RUN = "run.json"


@dataclass(frozen=True)
class Subject:
    """path: None where only an endpoint is known. content: digest of its files ("" without a path): of those that its
    manifest lists, as verification.json has it, else of the file or of the folder's fingerprint. results: folder of
    its evaluation.json, or of a GGUF file the stem before it."""

    name: str
    path: Path | None
    content: str
    manifest: Mapping[str, Any]
    results: Path | None = None

    def place(self, name: str) -> Path:
        """Of a file with results."""
        if self.results is not None:
            return self.results / name
        assert self.path is not None
        return beside(self.path, name)


def subject_at(path: Path, results: Path | None = None) -> Subject:
    """A Hugging Face folder, or a GGUF file (of a split one the first part). Raises SixfoldError where it is neither,
    or where its files are not those that its manifest lists."""
    if path.is_dir() and not (path / CONFIG).is_file():
        files = sorted(p.name for p in path.glob("*.gguf") if not p.name.startswith(("imatrix", PROJECTOR)))
        if files:
            raise UsageError(f"{path} holds several GGUF files", f"name one of them, such as {path / files[0]}")
        raise UsageError(f"{path} holds no {CONFIG}", "give the folder of a model, or a GGUF file")
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise UsageError(f"{path} is no GGUF file", "give the folder of a model, or a GGUF file")
    manifest = read_json(beside(path, MANIFEST)) or {}
    if "files" in manifest:
        folder = path if path.is_dir() else path.parent
        bad = damaged_files(folder, manifest, read_json(beside(path, RUN)))
        if bad:
            raise SixfoldError(f"{folder / bad[0]} is missing or differs from its manifest", "make the artifact again")
        content = content_digest(manifest)
    elif path.is_file():
        content = sha256_of(path)
    else:
        content = _fingerprint(path)
    return Subject(path.absolute().name, path, content, manifest, results)


def served(model: str, results: Path) -> Subject:
    """What an endpoint calls `model`."""
    return Subject(model, None, "", {}, results)


def _fingerprint(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise UsageError(f"{folder} holds no weights", "give the folder of a model with safetensors files")
    headers = [read_header(folder, name) for name in names]
    texts = [CONFIG, *carried_files(path.name for path in folder.iterdir() if path.is_file())]
    return digest_of({"folder": folder_fingerprint(WeightFolder(folder), headers, texts)})
