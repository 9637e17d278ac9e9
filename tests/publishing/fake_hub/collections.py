"""The Hub's routes for collections."""

import re
from typing import Any

from tests.publishing.fake_hub.server import Handler, Refused, route

_SLUG = r"(?P<slug>[^/]+/[^/]+)"


@route("GET", "/api/collections")
def collections(http: Handler) -> None:
    owners = http.query.get("owner", [])
    found = [_seen(c) for c in http.hub.collections.values() if not owners or c["owner"]["name"] in owners]
    http.answer([{key: value for key, value in c.items() if key != "position"} for c in found])


@route("POST", "/api/collections")
def create_collection(http: Handler) -> None:
    asked = http.json
    http.writer(asked["namespace"])
    if len(asked["title"]) > 60 or len(asked.get("description") or "") > 150:
        raise Refused(400, "title or description is too long")
    slug = f"{asked['namespace']}/{re.sub('[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
    if slug in http.hub.collections:
        raise Refused(409, "This collection exists already", slug=slug)
    http.hub.collections[slug] = {
        "slug": slug,
        "title": asked["title"],
        "description": asked.get("description"),
        "owner": {"name": asked["namespace"]},
        "private": asked["private"],
        "items": [],
        "lastUpdated": "2026-01-01T00:00:00.000Z",
        "position": 0,
        "theme": "blue",
        "upvotes": 0,
    }
    http.answer(_seen(http.hub.collections[slug]))


def _seen(collection: dict[str, Any]) -> dict[str, Any]:
    items = [{**item, "position": position} for position, item in enumerate(collection["items"])]
    return {**collection, "items": items, "owner": collection["owner"]["name"]}


def _known(http: Handler, slug: str, *, write: bool = False) -> dict[str, Any]:
    if slug not in http.hub.collections:
        raise Refused(404, "Collection not found")
    if write:
        http.writer(slug.split("/")[0])
    return http.hub.collections[slug]


@route("GET", f"/api/collections/{_SLUG}")
def collection(http: Handler, slug: str) -> None:
    http.answer(_seen(_known(http, slug)))


@route("PATCH", f"/api/collections/{_SLUG}")
def edit_collection(http: Handler, slug: str) -> None:
    known = _known(http, slug, write=True)
    known.update(http.json)
    http.answer({"data": _seen(known)})


@route("POST", f"/api/collections/{_SLUG}/items")
def add_item(http: Handler, slug: str) -> None:
    known = _known(http, slug, write=True)
    item, note = http.json["item"], http.json.get("note", "")
    if any(other["id"] == item["id"] for other in known["items"]):
        raise Refused(409, "Item already in collection")
    if len(note) > 500:
        raise Refused(400, "note is too long")
    number = len(http.hub.log)
    known["items"].append({"_id": f"item{number}", "id": item["id"], "type": item["type"], "note": {"text": note}})
    http.answer(_seen(known))


@route("PATCH", f"/api/collections/{_SLUG}/items/(?P<item>[^/]+)")
def edit_item(http: Handler, slug: str, item: str) -> None:
    items = _known(http, slug, write=True)["items"]
    found = next(other for other in items if other["_id"] == item)
    if "note" in http.json:
        found["note"] = {"text": http.json["note"]}
    if "position" in http.json:
        items.remove(found)
        items.insert(http.json["position"], found)
    http.answer({})
