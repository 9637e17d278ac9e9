"""Datasets of the Hugging Face Hub, by id, subset, split and revision: which files they are, and their rows.

All files of the split are downloaded into huggingface_hub's cache, where an interrupted download resumes; only the rows
that are drawn are read from them.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load

from calibration.texts.data_files import data_files
from calibration.texts.rows import Joined, Rows, rows_of
from sixfold.checkpoint.hub import download, list_dataset, resolve_commit
from sixfold.errors import SixfoldError
from sixfold.recipes.text_source import TextSource

_CARD = "README.md"


@dataclass(frozen=True)
class HubDataset:
    """commit: what the revision was resolved to."""

    source: TextSource
    commit: str
    forgiving = True

    @classmethod
    def resolved(cls, source: TextSource) -> "HubDataset":
        """Raises SixfoldError where the Hub has no such dataset or revision, or does not answer."""
        return cls(source, resolve_commit(source.dataset, source.revision, "dataset"))

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def domain(self) -> str:
        return self.source.domain

    @property
    def weight(self) -> Fraction:
        return Fraction(self.source.weight)

    @property
    def digest(self) -> str:
        return self.commit

    def rows(self, size: int) -> Rows:
        """Raises UsageError where the dataset has no such subset or split, SixfoldError where it cannot be fetched."""
        repo, sizes = self.source.dataset, self._sizes
        folder = download(repo, self.commit, {name: sizes[name] for name in self._files}, "dataset")
        return Joined([rows_of(folder / name, size) for name in self._files])

    def record(self) -> dict[str, Any]:
        license = self._card.get("license") or ""
        return {
            "revision": self.commit,
            "license": license if isinstance(license, str) else ", ".join(map(str, license)),
            "files": {name: self._sizes[name] for name in self._files},
        }

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return list_dataset(self.source.dataset, self.commit)

    @cached_property
    def _card(self) -> dict[str, Any]:
        """The metadata at the top of the dataset's README; empty where there is none."""
        if _CARD not in self._sizes:
            return {}
        path = download(self.source.dataset, self.commit, {_CARD: self._sizes[_CARD]}, "dataset") / _CARD
        return _metadata(path, self.source.dataset)

    @cached_property
    def _files(self) -> tuple[str, ...]:
        return data_files(self.source, self._card.get("configs") or [], tuple(self._sizes))


def _metadata(path: Path, repo: str) -> dict[str, Any]:
    try:
        return metadata_load(path) or {}
    except Exception as error:  # a README's YAML may be anything
        raise SixfoldError(
            f"the metadata in the README of dataset {repo} cannot be read", "name another revision of it"
        ) from error
