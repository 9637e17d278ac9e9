"""A read-only stand-in for the Hugging Face Hub on the loopback: repositories, ranges, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants


@dataclass
class HubState:
    """One repository. folder: what it holds, but for the commits that have a folder of their own in `commits`.

    fault: file -> bytes after which its connection is closed, once each. refused: file names that are answered with
    403. gated: whether every file needs an accepted license.
    """

    repo: str
    folder: Path
    kind: str = "model"
    endpoint: str = ""
    commits: dict[str, Path] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": "1" * 40})
    fault: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    gated: bool = False
    sent: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def files(self, commit: str) -> dict[str, Path]:
        folder = self.commits.get(commit, self.folder)
        return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}

    @property
    def api(self) -> str:
        return f"/api/{self.kind}s/{self.repo}"

    @property
    def web(self) -> str:
        return f"/{self.repo}" if self.kind == "model" else f"/{self.kind}s/{self.repo}"

    def commit(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.branches.values() else None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    states: tuple[HubState, ...]
    state: HubState

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        asked = [s for s in self.states if f"{path}/".startswith((f"{s.api}/", f"{s.web}/"))]
        if not asked:
            return self._missing("RepoNotFound")
        self.state = state = asked[0]
        state.log.append(f"{self.command} {path}")
        if match := re.fullmatch(rf"{state.api}(?:/revision/(.+))?", path):
            commit = state.commit(match[1] or "main")
            if commit is None:
                return self._missing("RevisionNotFound")
            return self._json({"id": state.repo, "sha": commit, "siblings": [], "tags": [], "private": False})
        if match := re.fullmatch(rf"{state.api}/tree/([^/]+)", path):
            return self._json(
                [
                    {"type": "file", "path": name, "size": p.stat().st_size, "oid": _digest(p)[:40]}
                    for name, p in state.files(state.commit(match[1]) or "").items()
                ]
            )
        match = re.fullmatch(rf"{state.web}/resolve/([^/]+)/(.+)", path)
        commit = (state.commit(match[1]) if match else None) or ""
        if match is None or match[2] not in state.files(commit):
            return self._missing("EntryNotFound")
        if state.gated:
            return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if match[2] in state.refused:
            return self._answer(403)
        return self._file(match[2], commit)

    do_HEAD = do_GET

    def _file(self, name: str, commit: str) -> None:
        path = self.state.files(commit)[name]
        size = path.stat().st_size
        headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, stop, status = 0, size, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            self.state.ranges.append((name, self.headers["Range"]))
            start, stop, status = int(match[1]), min(int(match[2] or size - 1) + 1, size), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.state.fault.pop(name, None)
        body = path.read_bytes()[start:stop][:cut]
        # Counted before it is sent: a client that has the bytes may look at the count before this thread runs again.
        self.state.sent[name] = self.state.sent.get(name, 0) + len(body)
        self.wfile.write(body)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def serve_hub(repo: str, folder: Path) -> Iterator[HubState]:
    with serve_repositories(HubState(repo, folder)) as (state,):
        yield state


@contextmanager
def serve_repositories(*states: HubState) -> Iterator[tuple[HubState, ...]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"states": states}))
    for state in states:
        state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield states
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def the_only_hub(state: HubState, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, huggingface_hub knows no other server and has an empty cache."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, state.endpoint))
    monkeypatch.setattr(constants, "ENDPOINT", state.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()
