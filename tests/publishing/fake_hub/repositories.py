"""The Hub's routes for repositories: created, listed, committed to, tagged."""

import base64
import hashlib
import json
from typing import Any

from tests.publishing.fake_hub.server import REPO, Handler, Refused, route
from tests.publishing.fake_hub.state import LARGE, Entry, Hub, Repository


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


@route("GET", f"/api/models/{REPO}(?:/revision/(?P<revision>[^/]+))?")
def model_info(http: Handler, repo: str, revision: str | None) -> None:
    found = http.repository(repo)
    commit = found.at(revision or "main")
    if commit is None:
        raise Refused(404, "no such revision", "RevisionNotFound")
    siblings = [{"rfilename": name} for name in commit.tree]
    http.answer(
        {"id": repo, "modelId": repo, "sha": commit.oid, "private": found.private, "tags": [], "siblings": siblings}
    )


@route("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)")
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


@route("GET", f"/api/models/{REPO}/refs")
def refs(http: Handler, repo: str) -> None:
    found = http.repository(repo)
    branches, tags = (
        [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in known.items()]
        for kind, known in (("heads", found.branches), ("tags", found.tags))
    )
    http.answer({"branches": branches, "tags": tags, "converts": []})


@route("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)")
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


@route("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)")
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


@route("PUT", f"/api/models/{REPO}/settings")
def settings(http: Handler, repo: str) -> None:
    http.repository(repo, write=True).private = http.json["visibility"] == "private"
    http.answer({})


@route("POST", f"/api/models/{REPO}/tag/(?P<revision>[^/]+)")
def tag(http: Handler, repo: str, revision: str) -> None:
    found = http.repository(repo, write=True)
    at = found.at(revision)
    if http.json["tag"] in found.tags or at is None:
        raise Refused(409, "Tag reference exists already")
    found.tags[http.json["tag"]] = at.oid
    http.answer({})
