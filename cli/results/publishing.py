"""What publishing says: its plan before anything is sent, and what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.terminal import heading, print_json, print_table
from sixfold.sizes import size

if TYPE_CHECKING:
    from publishing.plan import Plan
    from publishing.prepare import Edition
    from publishing.publish import Published

PREVIEW = "publishing-cards"
"""Folder in a model's folder that holds the cards of the last plan."""
_KINDS = ("new", "changed", "unchanged", "deleted", "kept")


def told(published: "Published") -> str:
    """The result for one repository, on one line."""
    before, after = published.before, published.after
    if before.is_done:
        did = "is current"
    else:
        deleted = f", {len(before.to_delete)} deleted" if before.to_delete else ""
        did = f"holds all files: {len(before.to_send)} sent ({size(before.bytes_to_send)}){deleted}"
    return f"{after.repo} {did}; {'released as' if published.tagged else 'release'} {after.tag}"


def print_details(plans: "Sequence[Plan]", public: bool, previews: Path) -> None:
    """Files, the changelog entry of the release, and where the card is to be read as it would be sent."""
    from cards.facts.origins import without_block
    from sixfold.artifact.workspace import write_if_changed

    for plan in plans:
        heading(f"{plan.repo} ({_visibility(plan, public)})")
        print_table(("file", "on the Hub", "size"), _file_rows(plan))
        for sentence in _remarks(plan):
            click.echo(f"  {sentence}")
        if plan.entry:
            click.echo(f"\n  CHANGELOG.md, new entry:\n{_indented(plan.entry)}")
        preview = previews / f"{plan.publication.folder.name}.md"
        write_if_changed(preview, without_block(plan.card).encode())
        click.echo(f"\n  README.md, as it would be sent: {preview}")
        if plan.remote is not None and plan.remote.card and (difference := plan.card_diff(without_block)):
            click.echo(f"\n  README.md, what changes:\n{_indented(difference)}")


def _file_rows(plan: "Plan") -> list[tuple[str, str, str]]:
    """One for each file; those of a folder (charts) together, by what happens to them."""
    together: dict[tuple[str, str], list[int]] = {}
    for change in plan.changes:
        folder, slash, _ = change.name.partition("/")
        together.setdefault((f"{folder}/" if slash else change.name, change.kind), []).append(change.bytes)
    return [
        (f"{name} ({len(sizes)} files)" if name.endswith("/") else name, kind, size(sum(sizes)))
        for (name, kind), sizes in together.items()
    ]


def print_summary(edition: "Edition", plans: "Sequence[Plan]", public: bool) -> None:
    heading(f"Plan for {edition.org}: {counted(plans)}, collection {edition.model}")
    print_table(
        ("repository", "release", "new", "changed", "unchanged", "deleted", "kept", "to send", "visibility"),
        [
            (
                plan.repo,
                plan.tag,
                *(sum(c.kind == kind for c in plan.changes) for kind in _KINDS),
                size(plan.bytes_to_send),
                _visibility(plan, public),
            )
            for plan in plans
        ],
    )
    click.echo(f"  {size(sum(plan.bytes_to_send for plan in plans))} to send in total.")
    if absent := edition.absent():
        where = "not on the Hub" if edition.hub is not None else "not among these"
        click.echo(f"  Made here and {where}, where cards may link to them: {', '.join(absent)}")


def _remarks(plan: "Plan") -> list[str]:
    """What else a reader of the plan should know."""
    from sixfold.name_lists import some

    remarks = []
    if plan.publication.left_out:
        remarks.append(f"Stays here (no manifest lists it): {some(plan.publication.left_out)}")
    if plan.not_here():
        remarks.append(f"On the Hub and not here, so the card no longer lists it: {some(plan.not_here())}")
    return remarks


def _visibility(plan: "Plan", public: bool) -> str:
    if plan.remote is None:
        return "new, public" if public else "new, private"
    if plan.remote.private:
        return "private, made public" if public else "private"
    return "public"


def counted(repositories: "Sequence[object]") -> str:
    return f"{len(repositories)} {'repository' if len(repositories) == 1 else 'repositories'}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def plan_as_data(plan: "Plan", public: bool) -> dict[str, Any]:
    from cards.facts.origins import without_block

    return {
        "repository": plan.repo,
        "variants": [artifact.variant for artifact in plan.publication.artifacts],
        "release": plan.tag,
        "visibility": _visibility(plan, public),
        "bytes_to_send": plan.bytes_to_send,
        "files": [{"name": c.name, "change": c.kind, "bytes": c.bytes} for c in plan.changes],
        "left_out": list(plan.publication.left_out),
        "changelog": plan.entry,
        "card": plan.card,
        "card_diff": plan.card_diff(without_block),
    }


def published_as_data(published: "Published", edition: "Edition") -> dict[str, Any]:
    from publishing.publish import reached

    before, after = published.before, published.after
    return {
        "repository": after.repo,
        "url": f"{reached(edition).api.endpoint}/{after.repo}",
        "release": after.tag,
        "is_new_release": published.tagged,
        "sent": list(before.to_send),
        "bytes_sent": before.bytes_to_send,
        "deleted": list(before.to_delete),
    }


def print_release(edition: "Edition", plans: "Sequence[Plan]", *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json([{"repository": p.repo, "release": p.tag, "visibility": _visibility(p, True)} for p in plans])
        return
    heading(f"Release of {edition.model} by {edition.org}{' (nothing is changed)' if dry_run else ''}")
    print_table(("repository", "release", "visibility"), [(p.repo, p.tag, _visibility(p, True)) for p in plans])
