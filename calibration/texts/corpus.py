"""Which texts a calibration reads: the built-in set, the user's files and folders, datasets of the Hub."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from calibration.texts.hub_dataset import HubDataset
from calibration.texts.rows import Rows, rows_of
from sixfold.artifact.workspace import sha256_of
from sixfold.checkpoint.hub import is_hub_id
from sixfold.errors import UsageError
from sixfold.recipes.text_source import BUILTIN, TextSource

TEXTS = Path(__file__).parent
SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
_IN_FOLDERS = (".txt", ".jsonl", ".parquet")  # a .json file in a folder may be anything


class Texts(Protocol):
    """Texts with one origin. name: as manifests show it. domain: what samples are drawn from in turn. weight: what
    this adds to its domain's share. digest: changes when the texts do, and is known before they are downloaded."""

    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def weight(self) -> Fraction: ...
    @property
    def digest(self) -> str: ...
    @property
    def forgiving(self) -> bool:
        """Whether single unusable rows are skipped, since the user cannot correct them."""
        ...

    def rows(self, size: int) -> Rows:
        """Its texts, plain text in pieces of about `size` bytes."""
        ...

    def record(self) -> dict[str, Any]:
        """What the manifest says of where they come from."""
        ...


@dataclass(frozen=True)
class TextFile:
    """name: as the manifest shows it (a path as the user gave it). license: "" for a user's own file."""

    path: Path
    name: str
    domain: str
    license: str = ""
    weight: Fraction = Fraction(1)
    forgiving = False

    @cached_property
    def digest(self) -> str:
        return sha256_of(self.path)

    def rows(self, size: int) -> Rows:
        return rows_of(self.path, size)

    def record(self) -> dict[str, Any]:
        return {"sha256": self.digest, "license": self.license}


def text_files(texts: tuple[TextSource, ...]) -> tuple[Texts, ...]:
    """What `texts:` names. Datasets of the Hub are resolved to their commits, and not downloaded yet.

    A folder's subfolders are its domains, which share its weight; a file or dataset is a domain by itself.

    Raises UsageError where a path is missing, holds no text or is named twice; SixfoldError where the Hub does not
    answer.
    """
    found: list[Texts] = []
    for text in texts:
        if text.dataset:
            found.append(HubDataset.resolved(text))
        elif text.path == BUILTIN:
            found.extend(_in_folder(TEXTS / "calibration", BUILTIN, licenses(), Fraction(text.weight)))
        else:
            found.extend(_own(text))
    names = [source.name for source in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the calibration text {repeated[0]} is named twice", "name it once, with a larger weight")
    return tuple(found)


def _own(text: TextSource) -> list[TextFile]:
    path = Path(text.path).expanduser()
    if path.is_dir():
        files = _in_folder(path, text.path, {}, Fraction(text.weight))
        if not files:
            raise UsageError(f"{path} holds no .txt, .jsonl or .parquet file", "name a folder of calibration texts")
        return files
    if path.is_file() and path.suffix in SUFFIXES:
        return [TextFile(path, text.path, text.path, weight=Fraction(text.weight))]
    if path.is_file():
        raise UsageError(
            f"{path} is neither .txt nor .jsonl, .json or .parquet", "convert it, one conversation or text a line"
        )
    remedy = f"write {{dataset: {text.path}}} if it is a dataset of the Hub" if is_hub_id(text.path) else ""
    raise UsageError(
        f"there is no calibration text {text.path!r}", remedy or 'use "builtin" or the path of a file or folder'
    )


def _in_folder(folder: Path, title: str, known: dict[str, str], weight: Fraction) -> list[TextFile]:
    inside = {p: p.relative_to(folder) for p in sorted(p for p in folder.rglob("*") if p.suffix in _IN_FOLDERS)}
    domains = {path: name.parts[0] if len(name.parts) > 1 else title for path, name in inside.items()}
    members = list(domains.values())
    share = weight / max(1, len(set(members)))
    return [
        TextFile(
            path,
            f"{title}/{name.as_posix()}",
            domains[path],
            known.get(f"calibration/{name.as_posix()}", ""),
            share / members.count(domains[path]),
        )
        for path, name in inside.items()
    ]


def licenses() -> dict[str, str]:
    """Built-in file (relative to the texts folder) -> license, from the table in SOURCES.md."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\| ([^|]+) \|$", (TEXTS / "SOURCES.md").read_text(), re.MULTILINE)
    return {name: license.strip() for name, license in rows}
