"""The collection that holds a model's repositories in order, with a note on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from huggingface_hub import Collection
from huggingface_hub.errors import HfHubHTTPError

from publishing.hub.requests import Hub

_LONGEST_TITLE = 59
_LONGEST_NOTE = 500
_LONGEST_DESCRIPTION = 150
"""Characters that the Hub allows."""


@dataclass(frozen=True)
class Item:
    repo: str
    note: str


def title_of(model: str) -> str:
    return model[:_LONGEST_TITLE]


def find_collection(hub: Hub, org: str, model: str) -> Collection | None:
    """The one of that title in the namespace, with all its items."""

    def find() -> Collection | None:
        try:
            for collection in hub.api.list_collections(owner=org):
                if collection.title == title_of(model):
                    return hub.api.get_collection(collection.slug)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
        return None

    return hub.ask(f"look for the collection {title_of(model)}", find)


def keep_collection(hub: Hub, org: str, model: str, items: Sequence[Item], order: Sequence[str]) -> str:
    """Create it, or bring it up to date; returns its URL.

    items: are put in where they are missing, and their notes corrected. order: of all repositories of the model; what
    somebody else put into the collection stays, after them. If interrupted, the next call continues.
    """
    collection = hub.ask(f"create the collection {title_of(model)}", lambda: _created(hub, org, model))
    for item in items:
        hub.ask(f"put {item.repo} into the collection", partial(_put, hub, collection.slug, item))
    hub.ask("put the collection into order", lambda: _sort(hub, collection.slug, order))
    return collection.url


def make_collection_public(hub: Hub, slug: str) -> None:
    def change() -> None:
        if hub.api.get_collection(slug).private:
            hub.api.update_collection_metadata(slug, private=False)

    hub.ask("make the collection public", change)


def _created(hub: Hub, org: str, model: str) -> Collection:
    found = find_collection(hub, org, model)
    if found is not None:
        return found
    description = f"{model} in every format that sixfold makes, each measured against its BF16 weights"
    try:
        return hub.api.create_collection(
            title_of(model),
            namespace=org,
            description=description[:_LONGEST_DESCRIPTION],
            private=True,
            exists_ok=True,
        )
    except KeyError:
        raise RuntimeError("it was refused as if it existed, and none was named") from None


def _put(hub: Hub, slug: str, item: Item) -> None:
    note = item.note[:_LONGEST_NOTE]
    there = {known.item_id: known for known in hub.api.get_collection(slug).items}
    if item.repo not in there:
        hub.api.add_collection_item(slug, item.repo, "model", note=note)
    elif there[item.repo].note != note:
        hub.api.update_collection_item(slug, there[item.repo].item_object_id, note=note)


def _sort(hub: Hub, slug: str, order: Sequence[str]) -> None:
    items = hub.api.get_collection(slug).items
    ranks = {repo: rank for rank, repo in enumerate(order)}
    wanted = sorted(items, key=lambda item: ranks.get(item.item_id, len(ranks)))
    now = [item.item_object_id for item in items]
    for position, item in enumerate(wanted):
        if now[position] != item.item_object_id:
            hub.api.update_collection_item(slug, item.item_object_id, position=position)
            now.remove(item.item_object_id)
            now.insert(position, item.item_object_id)
