"""Publishing a prepared edition, and releasing one that was reviewed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from publishing.artifacts import Artifact
from publishing.hub.collection import Item, find_collection, keep_collection, make_collection_public
from publishing.hub.remote import read_remote
from publishing.hub.requests import Hub
from publishing.plan import Plan, plan_of
from publishing.prepare import Edition
from publishing.publication import Publication
from publishing.record import record_card, record_org
from publishing.upload import check_ours, create_repository, make_public, send, tag_release
from sixfold.artifact.verification_record import stored_result, verdict_of
from sixfold.errors import SixfoldError
from sixfold.name_lists import some
from sixfold.progress import Progress
from sixfold.sizes import size


@dataclass(frozen=True)
class Published:
    """The result for one repository. before: its plan; after: as it is now. tagged: whether it is a new release."""

    before: Plan
    after: Plan
    tagged: bool


def publish(
    edition: Edition, plans: Sequence[Plan], *, public: bool, progress: Progress, tell: Callable[[Published], None]
) -> str:
    """Carry out the plans on the Hub; returns the collection's URL.

    Each repository is created private, filled, checked and tagged, and only then made public if it is to be. tell:
    called for each that is finished. If interrupted, the same call again does the rest.
    """
    hub = reached(edition)
    record_org(edition.root, edition.org)
    items = []
    for plan in plans:
        if plan.remote is None:
            create_repository(hub, plan.repo)
        after = send(hub, plan.repo, partial(edition.plan, plan.publication), progress)
        record_card(edition.root, plan.repo, after.card)
        tagged = tag_release(hub, after)
        if public:
            make_public(hub, plan.repo)
        items.append(Item(plan.repo, _note(edition, after)))
        tell(Published(plan, after, tagged))
    url = keep_collection(hub, edition.org, edition.model, items, edition.order)
    if public:
        _open_collection(edition)
    return url


def reached(edition: Edition) -> Hub:
    """Of an edition that was not planned without the Hub."""
    assert edition.hub is not None
    return edition.hub


def check_releasable(edition: Edition) -> tuple[Plan, ...]:
    """The plans of a set that is on the Hub as it is here. Raises SixfoldError for a repository that is not there, is
    incomplete or older than what is here, or whose card (which may have been edited since) the Hub would reject."""
    return tuple(_releasable(edition, publication) for publication in edition.publications)


def release(edition: Edition, plans: Sequence[Plan]) -> None:
    """Make the repositories and their collection public; done again, it changes nothing."""
    for plan in plans:
        make_public(reached(edition), plan.repo)
    _open_collection(edition)


def _releasable(edition: Edition, publication: Publication) -> Plan:
    remote = read_remote(reached(edition), publication.repo)
    if remote is None:
        raise SixfoldError(f"{publication.repo} is not on the Hub", "publish it first")
    publication = publication.beside(remote)
    plan = plan_of(publication, remote, remote.card, edition.cards.figures(publication), edition.date)
    check_ours(plan)
    if not plan.is_done or not plan.is_tagged:
        other = some(plan.to_send) or plan.tag
        raise SixfoldError(f"{publication.repo} is not what is here: {other} differs or is missing", "publish it first")
    edition.check_card(publication, remote.card)
    return plan


def _open_collection(edition: Edition) -> None:
    collection = find_collection(reached(edition), edition.org, edition.model)
    if collection is not None:
        make_collection_public(reached(edition), collection.slug)


def _note(edition: Edition, plan: Plan) -> str:
    """One line for each artifact that is in the repository: what it is, how large, and how far from BF16."""
    there = plan.remote.manifests if plan.remote else {}
    artifacts = [a for a in edition.every if a.folder == plan.publication.folder and a.manifest_name in there]
    return "\n".join(_line(artifact) for artifact in artifacts)


def _line(artifact: Artifact) -> str:
    result = stored_result(artifact.folder, artifact.manifest_name)
    score = verdict_of(result).as_run if result is not None else None
    distance = f", mean KL {score['mean_kl']:.4f}" if score is not None and not artifact.is_base else ""
    recipe = artifact.manifest["recipe"]
    what = artifact.manifest_name.removesuffix(".gguf.manifest.json") if recipe.get("budget") else recipe["scheme"]
    return f"{what if artifact.is_gguf else recipe['title']}: {size(artifact.nbytes)}{distance}"
