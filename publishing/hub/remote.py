"""A repository as it is on the Hub now."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from publishing.hub.requests import Hub
from sixfold.artifact.manifest import SCHEMA

CARD = "README.md"
CHANGELOG = "CHANGELOG.md"
FIGURES = "README.figures.json"
"""Where each figure of the card comes from."""
MAIN = "main"
GITATTRIBUTES = ".gitattributes"
"""The Hub's own: which files are large."""
_MADE_BY_THE_HUB = (GITATTRIBUTES, CARD)
"""What a repository may hold that was created on the web site and never filled."""


@dataclass(frozen=True)
class RemoteFile:
    """sha256: of a file in large storage, "" of one in git, which has an oid alone."""

    bytes: int
    sha256: str
    oid: str


@dataclass(frozen=True)
class Remote:
    """head: commit of main. manifests: of this project, by name. card, changelog: texts, "" where there is none."""

    repo: str
    private: bool
    head: str
    files: Mapping[str, RemoteFile]
    tags: Mapping[str, str]
    manifests: Mapping[str, Mapping[str, Any]]
    card: str
    changelog: str

    @property
    def is_empty(self) -> bool:
        return not set(self.files) - set(_MADE_BY_THE_HUB) and "# " not in self.card

    def is_of(self, model: str) -> bool:
        """Whether this project made it of that model, or nobody has filled it yet."""
        return self.is_empty or any(manifest.get("model") == model for manifest in self.manifests.values())


def read_remote(hub: Hub, repo: str) -> Remote | None:
    """None where there is no such repository, or the account may not see it."""
    found = hub.ask(f"look at {repo}", lambda: _read(hub, repo))
    if found is None:
        return None
    private, head, files, tags = found
    manifests = {name: _manifest(hub.text(repo, name, head)) for name in files if name.endswith("manifest.json")}
    return Remote(
        repo=repo,
        private=private,
        head=head,
        files=files,
        tags=tags,
        manifests={name: manifest for name, manifest in manifests.items() if manifest is not None},
        card=hub.text(repo, CARD, head) if CARD in files else "",
        changelog=hub.text(repo, CHANGELOG, head) if CHANGELOG in files else "",
    )


def read_files(hub: Hub, repo: str, commit: str) -> dict[str, RemoteFile]:
    """Every file of a commit, as the Hub lists it."""
    return {
        entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
        for entry in hub.api.list_repo_tree(repo, revision=commit, recursive=True)
        if isinstance(entry, RepoFile)
    }


def _read(hub: Hub, repo: str) -> tuple[bool, str, dict[str, RemoteFile], dict[str, str]] | None:
    try:
        info = hub.api.model_info(repo)
    except RepositoryNotFoundError:
        return None
    if info.sha is None or info.private is None:
        raise ValueError(f"the Hub reports too little about {repo}")
    tags = {tag.name: tag.target_commit for tag in hub.api.list_repo_refs(repo).tags}
    return bool(info.private), info.sha, read_files(hub, repo, info.sha), tags


def _manifest(text: str) -> Mapping[str, Any] | None:
    """A manifest of this project; None for another tool's file of that name."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    ours = isinstance(found, dict) and found.get("schema") == SCHEMA and {"variant", "recipe", "files"} <= found.keys()
    return found if ours else None
