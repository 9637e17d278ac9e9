"""The Hub's routes for large files (LFS in one part or several, tokens of Xet) and for downloads."""

import hashlib
import re
import time
from typing import Any

from tests.publishing.fake_hub.server import REPO, Handler, Refused, route
from tests.publishing.fake_hub.state import Hub


@route("POST", f"/{REPO}.git/info/lfs/objects/batch")
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


@route("GET", f"/api/models/{REPO}/xet-(?P<kind>write|read)-token/(?P<revision>[^/]+)")
def xet_token(http: Handler, repo: str, kind: str, revision: str) -> None:
    http.repository(repo, write=kind == "write")
    expires = int(time.time()) + 3600
    http.answer(
        {"casUrl": http.hub.xet, "accessToken": "xet", "exp": expires},
        **{"X-Xet-Cas-Url": http.hub.xet or "", "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)},
    )


@route("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
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
