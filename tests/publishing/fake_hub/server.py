"""A stand-in for the Hugging Face Hub that takes what it is sent: HTTP on the loopback, one route per function.

It answers what huggingface_hub asks when it creates repositories, uploads folders (LFS in one part or several, or Xet
into a `local://` store), commits, tags, keeps collections and downloads. Faults come on demand (state.Fault).
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.publishing.fake_hub.state import Account, Hub, Repository

REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = []


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **also: Any) -> None:
        self.status, self.message, self.code, self.also = status, message, code, also


def route(method: str, path: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The function answers requests of this method whose path is matched; named groups become arguments."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _ROUTES.append((method, path, function))
        return function

    return add


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    hub: Hub
    body: bytes
    query: dict[str, list[str]]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self._read_body()
        lose = False
        with self.hub.lock:
            self.hub.log.append(f"{self.command} {path}")
            fault = next((f for f in self.hub.faults if f.strikes(self.command, path)), None)
        if fault is not None:
            fault.reached.set()
            if fault.hold is not None:
                fault.hold.wait(60)
            if fault.drop or fault.hold is not None:
                self.close_connection = True
                return None
            if fault.status:
                return self.refuse(Refused(fault.status, fault.message), fault.headers)
            if fault.corrupt:
                self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
            lose = fault.lose
        try:
            with self.hub.lock:
                self._dispatch(path, lose)
        except Refused as refused:
            self.refuse(refused)
        except BrokenPipeError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def _dispatch(self, path: str, lose: bool) -> None:
        method = "GET" if self.command == "HEAD" else self.command
        for known, pattern, function in _ROUTES:
            if known == method and (match := re.fullmatch(pattern, path)):
                self.silent = lose
                function(self, **match.groupdict())
                if lose:
                    self.close_connection = True
                return
        raise Refused(404, f"no route {path}")

    def _read_body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, value: Any = None, *, status: int = 200, raw: bytes | None = None, **headers: str) -> None:
        if self.silent:
            return
        data = raw if raw is not None else json.dumps(value).encode()
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, refused: Refused, headers: Mapping[str, str] | None = None) -> None:
        self.silent = False
        code = {"X-Error-Code": refused.code} if refused.code else {}
        self.answer(
            {"error": refused.message, **refused.also},
            status=refused.status,
            **{"X-Error-Message": refused.message, **code, **(headers or {})},
        )

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def account(self) -> Account | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return self.hub.tokens.get(token) if scheme == "Bearer" else None

    def writer(self, namespace: str) -> Account:
        """The account, if it may write there."""
        account = self.account
        if account is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        may = namespace == account.name or account.orgs.get(namespace) in ("admin", "write", "contributor")
        granted = account.permissions is None or "repo.write" in account.permissions.get(namespace, [])
        if not may or account.role == "read" or not granted:
            raise Refused(403, f"You don't have the rights to write to {namespace}")
        return account

    def repository(self, name: str, *, write: bool = False) -> Repository:
        found = self.hub.repositories.get(name)
        if write:
            self.writer(name.split("/")[0])
        namespace = name.split("/")[0]
        seen = self.account is not None and namespace in (self.account.name, *self.account.orgs)
        if found is None or (found.private and not seen):
            raise Refused(404 if self.account else 401, "Repository not found", "RepoNotFound")
        return found


@contextmanager
def serve(folder: Path, **options: Any) -> Iterator[Hub]:
    for name in ("accounts", "repositories", "large_files", "collections"):
        import_module(f"tests.publishing.fake_hub.{name}")
    folder.mkdir(parents=True, exist_ok=True)
    hub = Hub(folder, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
