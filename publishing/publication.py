"""What one repository will hold: the files of its artifacts, and files beside them for readers."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from publishing.artifacts import Artifact, listed
from publishing.hub.remote import CARD, CHANGELOG, FIGURES, Remote, RemoteFile
from sixfold.artifact.workspace import sha256_of
from sixfold.errors import UsageError

_BESIDE = ("LICENSE*", "LICENCE*", "NOTICE*", "*.svg", "*.png", "*imatrix*.gguf")
"""Shell patterns of files that no manifest lists and a reader wants."""
_OF_AN_ARTIFACT = ("manifest.json", "verification.json", "evaluation.json", "speed.json")
_OF_THE_RUN = "run.json"
"""Times, memory and host, which readers do not need."""


@dataclass(frozen=True)
class LocalFile:
    path: Path
    bytes: int
    sha256: str

    def is_same(self, there: RemoteFile) -> bool:
        """By sha256, or for a file in git by the name that git gives its content."""
        if there.sha256:
            return there.sha256 == self.sha256
        sized = there.bytes == self.bytes and self.path.is_file()
        return sized and there.oid == git_oid(self.path.read_bytes())


@dataclass(frozen=True)
class Publication:
    """files: all but card, its figures and changelog, by name in the repository. left_out: names that stay here, as
    they are in no manifest and nothing that a reader needs. others: artifacts of the folder that were not
    chosen; absent: those of them that are not in the repository either, which its card must not list."""

    repo: str
    folder: Path
    artifacts: tuple[Artifact, ...]
    files: Mapping[str, LocalFile]
    left_out: tuple[str, ...]
    others: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def beside(self, remote: Remote | None) -> "Publication":
        """As it is with what the repository holds already; None where it holds nothing."""
        there = {manifest["variant"] for manifest in remote.manifests.values()} if remote is not None else set()
        return replace(self, absent=tuple(variant for variant in self.others if variant not in there))

    @property
    def owner(self) -> str:
        """The organization or user."""
        return self.repo.split("/")[0]

    @property
    def is_base(self) -> bool:
        return any(artifact.is_base for artifact in self.artifacts)

    @property
    def model(self) -> str:
        return str(self.artifacts[0].manifest["model"])


class Card(Protocol):
    """Renders the README.md of a repository from the facts beside it, with what a person wrote into the card `old`
    ("" for none)."""

    def __call__(self, publication: Publication, old: str) -> str: ...


def publications(org: str, chosen: Sequence[Artifact], every: Sequence[Artifact]) -> tuple[Publication, ...]:
    """One for each folder of the chosen artifacts, in their order. Hashes what no manifest lists.

    every: all artifacts of the model. Raises UsageError where the Hub would reject a name.
    """
    folders = dict.fromkeys(artifact.folder for artifact in chosen)
    return tuple(
        _publication(
            repository_name(org, folder),
            tuple(a for a in chosen if a.folder == folder),
            tuple(a for a in every if a.folder == folder and a not in chosen),
        )
        for folder in folders
    )


def repository_name(org: str, folder: Path) -> str:
    repo = f"{org}/{folder.name}"
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UsageError(
            f"{repo} is not a name that the Hub accepts (letters, digits, '-', '_' and '.', at most 96 characters)",
            "give --org a valid name, or export again with a shorter --name",
        ) from None
    return repo


def _publication(repo: str, artifacts: tuple[Artifact, ...], others: tuple[Artifact, ...]) -> Publication:
    folder = artifacts[0].folder
    files = {
        name: LocalFile(folder / name, int(record["bytes"]), str(record["sha256"]))
        for name, record in listed(artifacts).items()
    }
    elsewhere = {name for artifact in others for name in [*artifact.files, *_companions(artifact)]}
    left_out = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in files or name in elsewhere or name in (CARD, CHANGELOG, FIGURES) or _is_of_the_run(name):
            continue
        if any(name in _companions(artifact) for artifact in artifacts) or _matches(path.name, _BESIDE):
            files[name] = LocalFile(path, path.stat().st_size, sha256_of(path))
        else:
            left_out.append(name)
    return Publication(repo, folder, artifacts, files, tuple(left_out), tuple(a.variant for a in others))


def _companions(artifact: Artifact) -> tuple[str, ...]:
    stem = artifact.manifest_name.removesuffix("manifest.json")
    return tuple(stem + name for name in _OF_AN_ARTIFACT)


def _is_of_the_run(name: str) -> bool:
    return name.endswith(_OF_THE_RUN) or any(part.startswith(".") for part in name.split("/"))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def git_oid(data: bytes) -> str:
    """sha1 of a blob's length and content: its name in git, which the Hub lists."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
