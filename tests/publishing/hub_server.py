"""A stand-in for the Hugging Face Hub that takes what it is sent: HTTP on the loopback, one route per function.

It answers what huggingface_hub asks when it creates repositories, uploads folders (LFS in one part or several, or Xet
into a `local://` store), commits, tags, keeps collections and downloads. Faults come on demand (hub_state.Fault).
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.publishing.hub_state import LARGE, Account, Entry, Hub, Repository

_REPO = r"(?P<repo>[^/]+/[^/]+)"
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


@route("GET", "/api/whoami-v2")
def whoami(http: Handler) -> None:
    if http.account is None:
        raise Refused(401, "Invalid username or password.")
    http.answer(http.account.as_data())


@route("GET", "/api/organizations/(?P<name>[^/]+)/overview")
def organization(http: Handler, name: str) -> None:
    known = {org for account in http.hub.tokens.values() for org in account.orgs} | set(http.hub.other_organizations)
    if name not in known:
        raise Refused(404, "This organization does not exist")
    http.answer({"name": name, "fullname": name, "avatarUrl": "", "type": "org"})


@route("POST", "/api/validate-yaml")
def validate_card(http: Handler) -> None:
    content = http.json["content"]
    if not content.startswith("---"):
        return http.answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        fields = yaml.safe_load(content.split("---")[1]) or {}
    except yaml.YAMLError as error:
        return http.answer({"errors": [{"message": str(error)}], "warnings": []}, status=400)
    wrong = []
    if fields.get("license") == "other" and not fields.get("license_name"):
        wrong.append({"message": '"license_name" is required when "license" is "other"'})
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", fields.get("base_model", "a/b")):
        wrong.append({"message": '"base_model" must be a model id'})
    return http.answer({"errors": wrong, "warnings": []}, status=400 if wrong else 200)


@route("POST", "/api/repos/create")
def create_repository(http: Handler) -> None:
    asked = http.json
    account = http.writer(asked.get("organization") or (http.account.name if http.account else ""))
    name = f"{asked.get('organization') or account.name}/{asked['name']}"
    url = f"{http.hub.endpoint}/{name}"
    if name in http.hub.repositories:
        raise Refused(409, "You already created this model repo", url=url)
    http.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
    http.answer({"url": url, "name": name, "id": "1"})


@route("POST", f"/{_REPO}.git/info/lfs/objects/batch")
def lfs_batch(http: Handler, repo: str) -> None:
    http.repository(repo, write=True)
    objects = []
    for asked in http.json["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if not http.hub.has(asked["oid"], asked["size"]):
            place = f"{http.hub.endpoint}/_lfs/{asked['oid']}"
            entry["actions"] = {
                "upload": _upload(http.hub, place, asked["size"]),
                "verify": {"href": f"{place}/verify"},
            }
        objects.append(entry)
    http.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")


def _upload(hub: Hub, place: str, size: int) -> dict[str, Any]:
    if hub.part_bytes is None or size <= hub.part_bytes:
        return {"href": place}
    parts = {f"{i + 1:05d}": f"{place}/{i + 1}" for i in range(-(-size // hub.part_bytes))}
    return {"href": f"{place}/complete", "header": {"chunk_size": str(hub.part_bytes), **parts}}


@route("PUT", "/_lfs/(?P<sha256>[0-9a-f]{64})(?:/(?P<part>[0-9]+))?")
def lfs_put(http: Handler, sha256: str, part: str | None) -> None:
    http.hub.put_bytes += len(http.body)
    if part is not None:
        http.hub.object(f"{sha256}.{int(part):05d}").write_bytes(http.body)
        return http.answer({}, ETag=hashlib.md5(http.body).hexdigest())
    _keep(http.hub, sha256, http.body)
    return http.answer({})


@route("POST", "/_lfs/(?P<sha256>[0-9a-f]{64})/complete")
def lfs_complete(http: Handler, sha256: str) -> None:
    parts = [http.hub.object(f"{sha256}.{part['partNumber']:05d}") for part in http.json["parts"]]
    _keep(http.hub, sha256, b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    http.answer({})


def _keep(hub: Hub, sha256: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != sha256 and not hub.trusting:
        raise Refused(400, "the sha256 of what arrived is another")
    hub.object(sha256).write_bytes(data)


@route("POST", "/_lfs/(?P<sha256>[0-9a-f]{64})/verify")
def lfs_verify(http: Handler, sha256: str) -> None:
    path = http.hub.object(sha256)
    if not path.is_file() or path.stat().st_size != http.json["size"]:
        raise Refused(404, "no such object")
    http.answer({})


@route("GET", f"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def download(http: Handler, repo: str, revision: str, path: str) -> None:
    commit = http.repository(repo).at(revision)
    if commit is None:
        raise Refused(404, "no such revision", "RevisionNotFound")
    entry = commit.tree.get(path)
    if entry is None:
        raise Refused(404, "no such file", "EntryNotFound")
    headers = {"ETag": f'"{entry.sha256 or entry.oid}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if entry.sha256 in http.hub.xet_hashes:
        headers["X-Xet-Hash"] = http.hub.xet_hashes[entry.sha256]
        headers["X-Xet-Refresh-Route"] = f"{http.hub.endpoint}/api/models/{repo}/xet-read-token/{commit.oid}"
        headers["X-Linked-Size"] = str(entry.size)
        headers["X-Linked-ETag"] = headers["ETag"]
        return http.answer(raw=b"", **headers)
    data = http.hub.content(entry)
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", http.headers.get("Range") or ""):
        start, stop = int(match[1]), min(int(match[2] or len(data) - 1) + 1, len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return http.answer(status=206, raw=data[start:stop], **headers)
    return http.answer(raw=data, **headers)


@route("GET", f"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?")
def model_info(http: Handler, repo: str, revision: str | None) -> None:
    found = http.repository(repo)
    commit = found.at(revision or "main")
    if commit is None:
        raise Refused(404, "no such revision", "RevisionNotFound")
    siblings = [{"rfilename": name} for name in commit.tree]
    http.answer(
        {"id": repo, "modelId": repo, "sha": commit.oid, "private": found.private, "tags": [], "siblings": siblings}
    )


@route("GET", f"/api/models/{_REPO}/tree/(?P<revision>[^/]+)")
def tree(http: Handler, repo: str, revision: str) -> None:
    commit = http.repository(repo).at(revision)
    if commit is None:
        raise Refused(404, "no such revision", "RevisionNotFound")
    http.answer([_listed(http.hub, name, entry) for name, entry in commit.tree.items()])


def _listed(hub: Hub, name: str, entry: Entry) -> dict[str, Any]:
    if not entry.sha256:
        return {"type": "file", "path": name, "size": len(entry.data), "oid": entry.oid}
    stored = hub.object(entry.sha256)
    sha256 = hashlib.sha256(stored.read_bytes()).hexdigest() if stored.is_file() else entry.sha256
    lfs = {"oid": sha256, "size": entry.size, "pointerSize": 134}
    return {"type": "file", "path": name, "size": entry.size, "oid": entry.oid, "lfs": lfs}


@route("GET", f"/api/models/{_REPO}/refs")
def refs(http: Handler, repo: str) -> None:
    found = http.repository(repo)
    branches, tags = (
        [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in known.items()]
        for kind, known in (("heads", found.branches), ("tags", found.tags))
    )
    http.answer({"branches": branches, "tags": tags, "converts": []})


@route("POST", f"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)")
def preupload(http: Handler, repo: str, revision: str) -> None:
    commit = http.repository(repo, write=True).at(revision)
    assert commit is not None
    answers = []
    for asked in http.json["files"]:
        known = commit.tree.get(asked["path"])
        oid = None
        if known is not None:
            listed = _listed(http.hub, asked["path"], known)
            oid = listed["lfs"]["oid"] if "lfs" in listed else listed["oid"]
        mode = "lfs" if asked["path"].endswith(LARGE) else "regular"
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    http.answer({"files": answers})


@route("POST", f"/api/models/{_REPO}/commit/(?P<revision>[^/]+)")
def commit(http: Handler, repo: str, revision: str) -> None:
    found = http.repository(repo, write=True)
    head, *operations = [json.loads(line) for line in http.body.splitlines()]
    parent = head["value"].get("parentCommit")
    if parent and parent != found.branches[revision]:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(found.commits[found.branches[revision]].tree)
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            files[value["path"]] = Entry(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            if http.hub.xet is None and not http.hub.object(value["oid"]).is_file():
                raise Refused(400, f"the large file {value['oid']} was not sent")
            files[value["path"]] = Entry(sha256=value["oid"], size=value["size"])
        elif operation["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise Refused(400, f"unknown operation {operation['key']}")
    made = found.commit(revision, head["value"]["summary"], files)
    url = f"{http.hub.endpoint}/{repo}/commit/{made.oid}"
    http.answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


@route("PUT", f"/api/models/{_REPO}/settings")
def settings(http: Handler, repo: str) -> None:
    http.repository(repo, write=True).private = http.json["visibility"] == "private"
    http.answer({})


@route("POST", f"/api/models/{_REPO}/tag/(?P<revision>[^/]+)")
def tag(http: Handler, repo: str, revision: str) -> None:
    found = http.repository(repo, write=True)
    at = found.at(revision)
    if http.json["tag"] in found.tags or at is None:
        raise Refused(409, "Tag reference exists already")
    found.tags[http.json["tag"]] = at.oid
    http.answer({})


@route("GET", f"/api/models/{_REPO}/xet-(?P<kind>write|read)-token/(?P<revision>[^/]+)")
def xet_token(http: Handler, repo: str, kind: str, revision: str) -> None:
    http.repository(repo, write=kind == "write")
    expires = int(time.time()) + 3600
    http.answer(
        {"casUrl": http.hub.xet, "accessToken": "xet", "exp": expires},
        **{"X-Xet-Cas-Url": http.hub.xet or "", "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)},
    )


@contextmanager
def serve(folder: Path, **options: Any) -> Iterator[Hub]:
    from tests.publishing import hub_collections  # noqa: F401  its routes

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
