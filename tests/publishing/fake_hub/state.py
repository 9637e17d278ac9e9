"""What a stand-in for the Hub holds: accounts, repositories of commits, large files, collections, and faults."""

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".gguf")
GITATTRIBUTES = b"".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n".encode() for ending in LARGE)


def git_oid(data: bytes) -> str:
    """The name that git gives a blob: sha1 of its length and content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its bytes, or, of a large one, the sha256 and size under which they are stored."""

    data: bytes = b""
    sha256: str = ""
    size: int = 0

    @property
    def oid(self) -> str:
        return git_oid(self.sha256.encode() if self.sha256 else self.data)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str
    title: str
    tree: Mapping[str, Entry]


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {".gitattributes": Entry(GITATTRIBUTES)})

    def commit(self, branch: str, title: str, tree: Mapping[str, Entry]) -> Commit:
        parent = self.branches.get(branch, "")
        oid = hashlib.sha1(f"{self.name} {parent} {title} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(tree))
        self.branches[branch] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    @property
    def history(self) -> list[str]:
        """Titles of the commits of main, the oldest first."""
        titles, oid = [], self.branches["main"]
        while oid:
            titles.append(self.commits[oid].title)
            oid = self.commits[oid].parent
        return titles[::-1]

    def put(self, path: str, data: bytes, title: str = "Edited by hand") -> None:
        """What somebody does on the web site."""
        self.commit("main", title, {**self.commits[self.branches["main"]].tree, path: Entry(data)})


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of this method whose path matches, from the one after `skip` on.

    status: answered in place of the request's own effect. drop: the connection is closed without it. lose: the request
    takes effect and its answer is lost. corrupt: a byte of its body is flipped on the way. hold: it takes no effect and
    is not answered until the event is set; `reached` is set when it has come.
    """

    method: str
    path: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "injected"
    drop: bool = False
    lose: bool = False
    corrupt: bool = False
    hold: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    times: int = 1
    skip: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or method != self.method or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Account:
    """permissions: of a fine-grained token, {namespace: [...]}; None of a classic one, which has a role."""

    name: str = "tester"
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=lambda: {"lab": "admin"})
    permissions: Mapping[str, list[str]] | None = None

    def as_data(self) -> dict[str, Any]:
        access: dict[str, Any] = {"displayName": "test", "role": self.role}
        if self.permissions is not None:
            access = {"displayName": "test", "role": "fineGrained", "fineGrained": {"global": [], "scoped": []}}
            for namespace, permissions in self.permissions.items():
                kind = "user" if namespace == self.name else "org"
                scope = {"entity": {"type": kind, "name": namespace}, "permissions": permissions}
                access["fineGrained"]["scoped"].append(scope)
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        return {
            "type": "user",
            "id": "1",
            "name": self.name,
            "fullname": self.name,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": access},
        }


@dataclass
class Hub:
    """folder: where large files are kept. part_bytes: larger ones are sent in parts of that size; None: never.
    xet: URL of a Xet store; None: large files are put here. xet_hashes: sha256 -> the name Xet gives the content, for
    downloads. trusting: whether a large file's bytes are taken without a look at their sha256."""

    folder: Path
    tokens: dict[str, Account]
    part_bytes: int | None = None
    xet: str | None = None
    xet_hashes: dict[str, str] = field(default_factory=dict)
    trusting: bool = False
    endpoint: str = ""
    other_organizations: tuple[str, ...] = ("strangers",)
    repositories: dict[str, Repository] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    put_bytes: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def object(self, sha256: str) -> Path:
        return self.folder / sha256

    def has(self, sha256: str, size: int) -> bool:
        path = self.object(sha256)
        return path.is_file() and path.stat().st_size == size and digest(path) == sha256

    def content(self, entry: Entry) -> bytes:
        return self.object(entry.sha256).read_bytes() if entry.sha256 else entry.data

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Name -> bytes of everything but .gitattributes."""
        commit = self.repositories[repo].at(revision)
        assert commit is not None
        return {name: self.content(entry) for name, entry in commit.tree.items() if name != ".gitattributes"}

    def requests(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]

    def break_with(self, *faults: Fault) -> None:
        self.faults.extend(faults)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
