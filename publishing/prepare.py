"""All checks before the first byte is sent, and the resulting plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from publishing.artifacts import Artifact, Refusal, chosen, damaged, find_artifacts, unproven
from publishing.card import check_license, with_base_model
from publishing.hub.remote import CARD, Remote, read_remote
from publishing.hub.requests import Hub
from publishing.merge import merged
from publishing.plan import Plan, plan_of
from publishing.publication import Card, Publication, publications, repository_name
from publishing.record import sent_card
from publishing.upload import check_ours
from sixfold.errors import GateError, SixfoldError
from sixfold.progress import Progress
from sixfold.sizes import size

_LARGEST = 500 * 10**9
"""Largest file in bytes that the Hub allows."""


@dataclass(frozen=True)
class Cards:
    """What this project's cards are made with. text: README.md. figures: of a publication, the record of where that
    card's figures come from ("" for none). problems: a card's text -> what the Hub would refuse or ignore of its front
    matter, found out offline."""

    text: Card
    figures: Callable[[Publication], str]
    problems: Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Edition:
    """What is published together. hub: None where the plan is made without asking it, as if nothing were there. root:
    <out>/<model>. every: all artifacts of the model, in order. base: repository of
    the BF16 weights, "" where there is none. date: of the releases, YYYY-MM-DD."""

    hub: Hub | None
    root: Path
    org: str
    every: tuple[Artifact, ...]
    publications: tuple[Publication, ...]
    base: str
    cards: Cards
    date: str

    @property
    def model(self) -> str:
        return str(self.every[0].manifest["model"])

    @property
    def order(self) -> tuple[str, ...]:
        """Every repository that the model's artifacts can have, as a collection lists them."""
        return tuple(dict.fromkeys(repository_name(self.org, artifact.folder) for artifact in self.every))

    def absent(self) -> tuple[str, ...]:
        """Repositories of the model's other artifacts that are not on the Hub, or of all others where it is not asked;
        cards tell of them and link to them."""
        hub = self.hub
        others = [repo for repo in self.order if repo not in {p.repo for p in self.publications}]
        if hub is None:
            return tuple(others)
        return tuple(r for r in others if not hub.ask(f"look for {r}", partial(hub.api.repo_exists, r)))

    def plan(self, publication: Publication) -> Plan:
        """As the Hub is now. Raises SixfoldError where somebody else made the repository, or the Hub would reject the
        card."""
        remote = read_remote(self.hub, publication.repo) if self.hub is not None else None
        publication = publication.beside(remote)
        card = self._card(publication, remote.card if remote is not None and not remote.is_empty else "")
        if self.base and not publication.is_base:
            card = with_base_model(card, self.base)
        plan = plan_of(publication, remote, card, self.cards.figures(publication), self.date)
        check_ours(plan)
        self.check_card(publication, card)
        return plan

    def _card(self, publication: Publication, there: str) -> str:
        """Rendered again, with what people wrote into the card here and into the one on the Hub since it was sent."""
        path = publication.folder / CARD
        ours = self.cards.text(publication, path.read_text(encoding="utf-8") if path.is_file() else "")
        sent = sent_card(self.root, publication.repo)
        if there in ("", sent):
            return ours
        return merged(self.cards.text(publication, sent), ours, self.cards.text(publication, there))

    def check_card(self, publication: Publication, card: str) -> None:
        """Raises SixfoldError where the card states no license, or the Hub would reject it."""
        check_license(publication.repo, card, publication.files)
        found = [*self.cards.problems(card)]
        if not found and self.hub is not None:
            found = [*self.hub.card_problems(card)]
        if found:
            raise SixfoldError(
                f"the Hub would reject the card of {publication.repo}: {'; '.join(found)}",
                f"correct the front matter of {publication.folder / 'README.md'}",
            )


def edition_of(hub: Hub | None, org: str, root: Path, variants: Sequence[str], cards: Cards, date: str) -> Edition:
    """hub: None to plan without it. root: <out>/<model>. variants: names of recipes; all that are there where none is
    named.

    Raises GateError where a gate of one does not hold, UsageError where the Hub would reject a name, SixfoldError
    where one is not there.
    """
    every = find_artifacts(root)
    wanted = chosen(every, variants)
    _refuse([refusal for artifact in wanted if (refusal := unproven(artifact))], len(wanted))
    found = publications(org, wanted, every)
    return Edition(hub, root, org, every, found, _base(hub, org, found, every), cards, date)


def plan_all(edition: Edition, progress: Progress) -> tuple[Plan, ...]:
    """Check everything, and plan. Nothing is created or changed anywhere.

    Raises SixfoldError where a repository of the name was made by somebody else, a card or a license would not do, or
    a file is not as its manifest says.
    """
    plans = tuple(edition.plan(publication) for publication in edition.publications)
    for plan in plans:
        _check_sizes(plan.publication)
    wanted = [artifact for publication in edition.publications for artifact in publication.artifacts]
    _refuse(damaged(wanted, progress), len(wanted))
    return plans


def _check_sizes(publication: Publication) -> None:
    for name, file in publication.files.items():
        if file.bytes > _LARGEST:
            raise SixfoldError(
                f"{name} of {publication.repo} has {size(file.bytes)}, and the Hub takes {size(_LARGEST)} a file",
                "export it again in smaller files",
            )


def _base(hub: Hub | None, org: str, found: Sequence[Publication], every: Sequence[Artifact]) -> str:
    """The BF16 repository that is published now, or was before."""
    now = next((publication.repo for publication in found if publication.is_base), "")
    base = next((artifact for artifact in every if artifact.is_base), None)
    if now or base is None or hub is None:
        return now
    remote: Remote | None = read_remote(hub, repository_name(org, base.folder))
    return remote.repo if remote is not None and remote.manifests and remote.is_of(base.manifest["model"]) else ""


def _refuse(refusals: Sequence[Refusal], of: int) -> None:
    """Raise them all as one error."""
    if not refusals:
        return
    error = GateError if any(refusal.gate for refusal in refusals) else SixfoldError
    if len(refusals) == 1:
        (refusal,) = refusals
        raise error(f"{refusal.variant} cannot be published: {refusal.what}", refusal.remedy)
    lines = [f"  {refusal.variant}: {refusal.what}; {refusal.remedy}" for refusal in refusals]
    raise error(
        "\n".join([f"{len(refusals)} of {of} variants cannot be published:", *lines]),
        "\nfix them, or name the others: sixfold publish VARIANT...",
    )
