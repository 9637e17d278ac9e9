"""sixfold card: render the cards of a model's artifacts again, or say which are stale."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option, out_option, paths
from cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from cards.facts.model_facts import ModelFacts
    from cards.model_card.card import Written


@click.command(epilog="Example: sixfold card artifacts/minimax-m2-4.6m --check")
@click.argument("location", metavar="[MODEL|FOLDER]", required=False, shell_complete=paths)
@out_option
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if a card is stale or a figure is wrong.")
@json_option
def command(location: str | None, out: Path, check: bool, as_json: bool) -> int:
    """Render README.md of each variant from the files beside it.

    MODEL is a folder under --out (or the checkpoint that it was made from), FOLDER one of its variants; all models
    under --out by default. Text that a person wrote between the `yours` comments is kept, and so are added sections
    and front matter fields.
    """
    if check:
        return _check(location, out, as_json)
    from cards.model_card.card import render_card

    written = [render_card(model, folder) for model, folder in _folders(location, out)]
    if as_json:
        print_json([_as_data(card) for card in written])
        return 0
    print_table(("card", "state"), [(str(c.path), "written" if c.changed else "current") for c in written])
    for card in written:
        tell(card, quiet=False)
    for refusal in refusals(written):
        click.echo(refusal)
    return 0


def _check(location: str | None, out: Path, as_json: bool) -> int:
    from cards.facts.origins import wrong_figures
    from cards.model_card.card import CARD, is_current, read_card
    from cards.model_card.front_matter import problems

    rows = []
    for model, folder in _folders(location, out):
        path = folder / CARD
        text = read_card(path)
        state = "missing" if not text else "current" if is_current(model, folder) else "stale"
        wrong = wrong_figures(text, folder) if text else ()
        rows.append({"card": str(path), "state": state, "wrong": list(wrong), "problems": list(problems(text))})
    if as_json:
        print_json(rows)
    else:
        print_table(("card", "state"), [(str(row["card"]), str(row["state"])) for row in rows])
        for row in rows:
            for sentence in [*row["wrong"], *row["problems"]]:
                click.echo(f"  {row['card']}: {sentence}")
    return 1 if any(row["state"] != "current" or row["wrong"] for row in rows) else 0


def _folders(location: str | None, out: Path) -> "Iterator[tuple[ModelFacts, Path]]":
    """Each variant's folder, with all that is known of its model."""
    from cards.facts.model_facts import is_model_folder, read_model
    from sixfold.errors import UsageError

    asked = Path(location).expanduser() if location else out
    if location is None:
        roots = [folder for folder in sorted(out.glob("*")) if is_model_folder(folder)]
    elif is_model_folder(asked):
        roots = [asked]
    elif is_model_folder(asked.absolute().parent) and asked.is_dir():
        model = read_model(asked.absolute().parent)
        folder = next((f for f in model.folders if f.name == asked.absolute().name), None)
        if folder is not None:
            yield model, folder
            return
        roots = []
    else:
        roots = [folder for folder in (out / asked.name,) if is_model_folder(folder)]
    if not roots:
        raise UsageError(
            f"there are no artifacts of {location or 'any model'} under {out}",
            "make some with `sixfold export`, or name their folder, or the root that holds it with --out",
        )
    for root in roots:
        model = read_model(root)
        for folder in model.folders:
            yield model, folder


def render_cards(root: Path, *, quiet: bool) -> None:
    """Render all cards of a model, its charts and its report, if its folder holds artifacts of recipes: each card shows
    the sizes and quality of the others."""
    from cards.facts.model_facts import is_model_folder, read_model
    from cards.model_card.card import write_cards
    from cards.report.report import write_report
    from cli.commands.report import draw

    if not is_model_folder(root):
        return
    model = read_model(root)
    drawn = draw(model)
    written = write_cards(model)
    write_report(model, *drawn)
    for card in written:
        tell(card, quiet)
    for refusal in refusals(written):
        click.echo(refusal, err=quiet)


def tell(card: "Written", quiet: bool) -> None:
    """Warn a person whose edits were replaced. quiet: on stderr."""
    from cards.model_card.card import ALL_OF_IT

    if card.lost:
        foreign = card.lost == (ALL_OF_IT,)
        why = "was not rendered by sixfold" if foreign else f"was edited in rendered parts ({', '.join(card.lost)})"
        click.echo(f"{card.path} {why}; the earlier text is kept in {card.before}", err=quiet)


def refusals(written: "Sequence[Written]") -> list[str]:
    """What the Hub would reject: each problem once, with the cards that have it."""
    found: dict[str, list[str]] = {}
    for card in written:
        for problem in card.problems:
            found.setdefault(problem, []).append(card.folder.name)
    return [f"the Hub would reject the card of {', '.join(names)}: {problem}" for problem, names in found.items()]


def _as_data(card: "Written") -> dict[str, object]:
    return {
        "card": str(card.path),
        "state": "written" if card.changed else "current",
        "problems": list(card.problems),
        "lost": list(card.lost),
    }
