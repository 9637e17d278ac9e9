"""sixfold publish: put a model's variants on the Hugging Face Hub."""

import shlex
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, out_option, recipe_names
from cli.results.publishing import (
    PREVIEW,
    counted,
    plan_as_data,
    print_details,
    print_release,
    print_summary,
    published_as_data,
    told,
)
from cli.terminal import print_json, program, progress, say

if TYPE_CHECKING:
    from cards.model_card.card import Rendered
    from publishing.plan import Plan
    from publishing.prepare import Edition
    from publishing.publication import Publication
    from publishing.publish import Published


@click.command(
    short_help="Put variants on the Hugging Face Hub.",
    epilog="Example: sixfold publish awq gguf --org my-lab --dry-run",
)
@click.argument("variants", metavar="[VARIANT]...", nargs=-1, shell_complete=recipe_names)
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
    from publishing.artifacts import chosen, find_artifacts
    from publishing.hub.access import check_access
    from publishing.hub.requests import has_token, log_in
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
    hub = log_in(partial(say, quiet=True)) if has_token() or not dry_run or release else None
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
        print_release(edition, releasable, as_json=as_json, dry_run=dry_run)
        if dry_run:
            return 0
        if not (yes or _agreed(f"Make {counted(releasable)} and the collection public?")):
            return 1
        make_public(edition, releasable)
        say(f"Public now: {counted(releasable)} of {org}.", as_json)
        return 0
    plans = plan_all(edition, progress)
    if dry_run and as_json:
        print_json([plan_as_data(plan, public) for plan in plans])
    elif not as_json:
        if dry_run or not yes:
            print_details(plans, public, edition.root / PREVIEW)
        print_summary(edition, plans, public)
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
        say(told(published), as_json)

    collection = publish(edition, plans, public=public, progress=progress, tell=tell)
    if as_json:
        print_json({"collection": collection, "repositories": [published_as_data(p, edition) for p in done]})
        return
    click.echo(f"\nComplete: {counted(done)} of {edition.org}. Collection: {collection}")
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


def _agreed(question: str) -> bool:
    agreed = click.confirm(question)
    if not agreed:
        click.echo("Nothing was changed.")
    return agreed


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).date().isoformat()


def _card(publication: "Publication", old: str) -> str:
    return _rendered(publication.folder, publication.owner, old, publication.absent).text


def _figures(publication: "Publication") -> str:
    return _rendered(publication.folder, publication.owner, "", publication.absent).figures


@cache
def _rendered(folder: Path, owner: str, old: str, absent: tuple[str, ...]) -> "Rendered":
    """absent: variants of the folder that readers will not find.

    Cached: the Hub is read several times while a repository is sent, and the facts do not change meanwhile.
    """
    from cards.facts.model_facts import read_model
    from cards.model_card.card import card_of

    return card_of(read_model(folder.parent).without(folder, absent), folder, owner, old)


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
