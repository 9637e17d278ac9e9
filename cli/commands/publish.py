"""sixfold publish: put a model's variants on the Hugging Face Hub."""

import shlex
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, out_option
from cli.terminal import heading, print_json, print_table, program, progress
from sixfold.sizes import size

if TYPE_CHECKING:
    from cards.model_card.card import Rendered
    from publishing.plan import Plan
    from publishing.prepare import Edition
    from publishing.publication import Publication
    from publishing.publish import Published

_PREVIEW = "publishing-cards"
"""Folder in a model's folder that holds the cards of the last plan."""
_KINDS = ("new", "changed", "unchanged", "deleted", "kept")


@click.command(
    short_help="Put variants on the Hugging Face Hub.",
    epilog="Example: sixfold publish awq gguf --org my-lab --dry-run",
)
@click.argument("variants", metavar="[VARIANT]...", nargs=-1)
@click.option("--org", default="", metavar="TEXT", help="Organization or user to publish to; the last one by default.")
@click.option(
    "--model",
    default="",
    metavar="MODEL",
    help="Name, folder or hub id; the only model under --out by default.",
)
@click.option("--name", default="", metavar="TEXT", help="Name of MODEL's outputs, if they were given one.")
@out_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan, and leave the cards beside the artifacts to be read; send nothing. Needs no token.",
)
@click.option("--public", is_flag=True, help="Make the repositories public once they are complete; private by default.")
@click.option("--release", is_flag=True, help="Make public what was published privately and reviewed.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def command(
    variants: tuple[str, ...],
    org: str,
    model: str,
    name: str,
    out: Path,
    dry_run: bool,
    public: bool,
    release: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Publish VARIANT... (recipes or sets; all that were made by default) to the Hugging Face Hub.

    One repository per variant, all GGUF files in one, and a collection of them. Only variants that passed their gates
    and match their manifests are published. The plan is shown first. An interrupted run resumes; files that are on the
    Hub already are not sent again; card sections that were written by hand are kept.
    """
    from publishing.access import check_access
    from publishing.artifacts import chosen, find_artifacts
    from publishing.hub import has_token, log_in
    from publishing.prepare import Cards, edition_of, plan_all
    from publishing.publication import repository_name
    from publishing.publish import check_releasable
    from publishing.publish import release as make_public
    from sixfold.errors import SixfoldError, UsageError

    if release and public:
        raise UsageError("--release only makes public what was published", "leave --public out")
    root = _model_folder(out, name or _name_of(model))
    wanted = _expanded(variants, root)
    artifacts = chosen(find_artifacts(root), wanted)  # a wrong name is told before anything else
    org = org or _last_org(root)
    if not (yes or dry_run) and (as_json or not sys.stdin.isatty()):
        raise UsageError(
            "publishing asks for confirmation in a terminal",
            "give --yes, or --dry-run to see only the plan",
        )
    for artifact in artifacts:
        repository_name(org, artifact.folder)
    hub = log_in(partial(_say, quiet=True)) if has_token() or not dry_run or release else None
    refusal = ""
    if hub is not None:
        try:
            check_access(hub, org)
        except SixfoldError as error:
            if not dry_run:
                raise
            refusal = str(error)
    edition = edition_of(hub, org, root, wanted, Cards(_card, _figures, _problems), _today())
    if release:
        releasable = check_releasable(edition)
        _print_release(edition, releasable, as_json=as_json, dry_run=dry_run)
        if dry_run:
            return 0
        if not (yes or _agreed(f"Make {_counted(releasable)} and the collection public?")):
            return 1
        make_public(edition, releasable)
        _say(f"Public now: {_counted(releasable)} of {org}.", as_json)
        return 0
    plans = plan_all(edition, progress)
    if dry_run and as_json:
        print_json([_plan_as_data(plan, public) for plan in plans])
    elif not as_json:
        if dry_run or not yes:
            _print_details(plans, public, edition.root / _PREVIEW)
        _print_summary(edition, plans, public)
        if hub is None:
            click.echo("  The Hub was not asked, as there is no token: what is there already is planned as new.")
        if refusal:
            click.echo(f"  This token could not publish it: {refusal}")
    if dry_run:
        return 0
    if not (yes or _agreed(f"Publish to {org}?")):
        return 1
    _publish(edition, plans, public=public, as_json=as_json)
    return 0


def _publish(edition: "Edition", plans: "Sequence[Plan]", *, public: bool, as_json: bool) -> None:
    from publishing.publish import publish

    done: list[Published] = []

    def tell(published: "Published") -> None:
        done.append(published)
        _say(_told(published), as_json)

    collection = publish(edition, plans, public=public, progress=progress, tell=tell)
    if as_json:
        print_json({"collection": collection, "repositories": [_published_as_data(p, edition) for p in done]})
        return
    click.echo(f"\nComplete: {_counted(done)} of {edition.org}. Collection: {collection}")
    if not public and any(p.after.remote is not None and p.after.remote.private for p in done):
        words = [
            "publish",
            "--release",
            "--model",
            edition.model,
            "--org",
            edition.org,
            "--out",
            str(edition.root.parent),
        ]
        click.echo(f"Private until you have read the cards there. Then: {program()} {shlex.join(words)}")


def _told(published: "Published") -> str:
    """The result for one repository, on one line."""
    before, after = published.before, published.after
    if before.is_done:
        did = "is current"
    else:
        deleted = f", {len(before.to_delete)} deleted" if before.to_delete else ""
        did = f"holds all files: {len(before.to_send)} sent ({size(before.bytes_to_send)}){deleted}"
    return f"{after.repo} {did}; {'released as' if published.tagged else 'release'} {after.tag}"


def _print_details(plans: "Sequence[Plan]", public: bool, previews: Path) -> None:
    """Files, the changelog entry of the release, and where the card is to be read as it would be sent."""
    from cards.facts.origins import without_block
    from sixfold.artifact.workspace import write_if_changed

    for plan in plans:
        heading(f"{plan.repo} ({_visibility(plan, public)})")
        print_table(("file", "on the Hub", "size"), [(c.name, c.kind, size(c.bytes)) for c in plan.changes])
        for sentence in _remarks(plan):
            click.echo(f"  {sentence}")
        if plan.entry:
            click.echo(f"\n  CHANGELOG.md, new entry:\n{_indented(plan.entry)}")
        preview = previews / f"{plan.publication.folder.name}.md"
        write_if_changed(preview, without_block(plan.card).encode())
        click.echo(f"\n  README.md, as it would be sent: {preview}")
        if plan.remote is not None and plan.remote.card and (difference := plan.card_diff(without_block)):
            click.echo(f"\n  README.md, what changes:\n{_indented(difference)}")


def _print_summary(edition: "Edition", plans: "Sequence[Plan]", public: bool) -> None:
    heading(f"Plan for {edition.org}: {_counted(plans)}, collection {edition.model}")
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
        click.echo(f"  Made here and not on the Hub, where cards may link to them: {', '.join(absent)}")


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


def _counted(repositories: "Sequence[object]") -> str:
    return f"{len(repositories)} {'repository' if len(repositories) == 1 else 'repositories'}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _plan_as_data(plan: "Plan", public: bool) -> dict[str, Any]:
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


def _published_as_data(published: "Published", edition: "Edition") -> dict[str, Any]:
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


def _print_release(edition: "Edition", plans: "Sequence[Plan]", *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json([{"repository": p.repo, "release": p.tag, "visibility": _visibility(p, True)} for p in plans])
        return
    heading(f"Release of {edition.model} by {edition.org}{' (nothing is changed)' if dry_run else ''}")
    print_table(("repository", "release", "visibility"), [(p.repo, p.tag, _visibility(p, True)) for p in plans])


def _agreed(question: str) -> bool:
    agreed = click.confirm(question)
    if not agreed:
        click.echo("Nothing was changed.")
    return agreed


def _say(text: str, quiet: bool) -> None:
    click.echo(text, err=quiet)


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).date().isoformat()


def _card(publication: "Publication", old: str) -> str:
    return _rendered(publication.folder, publication.owner, old).text


def _figures(publication: "Publication") -> str:
    return _rendered(publication.folder, publication.owner, "").figures


@cache
def _rendered(folder: Path, owner: str, old: str) -> "Rendered":
    """Cached: the Hub is read several times while a repository is sent, and the facts do not change meanwhile."""
    from cards.facts.model_facts import read_model
    from cards.model_card.card import card_of

    return card_of(read_model(folder.parent), folder, owner, old)


def _problems(card: str) -> tuple[str, ...]:
    from cards.model_card.front_matter import problems

    return problems(card)


def _expanded(variants: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """Names with sets replaced by those of their recipes that were made; each variant once."""
    from publishing.artifacts import find_artifacts
    from sixfold.recipes.recipe import load_recipes

    here = {artifact.variant for artifact in find_artifacts(root)}
    names: list[str] = []
    for variant in variants:
        members = [variant] if variant in here else [recipe.name for recipe in load_recipes(variant)]
        names += [name for name in members if name in here] or [variant]
    return tuple(dict.fromkeys(names))


def _name_of(model: str) -> str:
    """What the outputs of a checkpoint are called, unless they were given another name."""
    from sixfold.checkpoint.provenance import read_provenance

    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return read_provenance(folder, None).name or folder.resolve().name
    return model.rstrip("/").rpartition("/")[2]


def _model_folder(out: Path, name: str) -> Path:
    """<out>/<name>; without a name, the only model there."""
    from sixfold.errors import SixfoldError, UsageError

    models = sorted({path.parent.parent.name for path in out.glob("*/*/*manifest.json")})
    if not models:
        raise SixfoldError(f"{out} holds no finished artifact", "make some with `sixfold export`, or give --out")
    if name and name not in models:
        raise UsageError(f"{out} has no artifacts of {name}", f"give --name or --model one of {', '.join(models)}")
    if not name and len(models) > 1:
        raise UsageError(f"{out} holds several models", f"give --model one of {', '.join(models)}")
    return out / (name or models[0])


def _last_org(root: Path) -> str:
    from publishing.record import last_org
    from sixfold.errors import UsageError

    org = last_org(root)
    if not org:
        raise UsageError(f"{root.name} was not published before", "name the organization: --org my-lab")
    return org
