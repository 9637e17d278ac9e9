"""sixfold recipes: list the recipes, or print what one resolves to."""

from typing import Any

import click

from cli.options import load_formats, overrides_option, recipe_names
from cli.terminal import print_json, print_table


@click.command(
    short_help="List the recipes, or print what one resolves to.",
    epilog="Example: sixfold recipes nvfp4 --set calibration.samples=128",
)
@click.argument("formats", metavar="[FORMAT]...", nargs=-1, shell_complete=recipe_names)
@overrides_option
@click.option("--names", is_flag=True, help="Print only the names of shipped recipes.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipe files, for editors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(formats: tuple[str, ...], overrides: tuple[str, ...], names: bool, schema: bool, as_json: bool) -> None:
    """List the shipped recipes, or check and print what FORMAT (a name, a set or a path) resolves to."""
    from sixfold.recipes.recipe import shipped_recipes

    if names:
        click.echo(" ".join(path.stem for path in shipped_recipes()))
    elif schema:
        print_json(schema_of_all())
    elif formats:
        resolved = [recipe.model_dump(mode="json") for recipe in load_formats(formats, overrides)]
        if as_json:
            print_json(resolved)
        else:
            _print_yaml(resolved)
    else:
        _list(as_json)


def schema_of_all() -> dict[str, Any]:
    """The schema with the options of every shipped exporter: what recipes/schema.json holds."""
    from exporters.registry import exporter_named, exporter_names
    from sixfold.recipes.recipe import recipe_schema

    return recipe_schema({name: exporter_named(name).Options for name in exporter_names()})


def _list(as_json: bool) -> None:
    from exporters.schemes import SCHEMES
    from sixfold.recipes.recipe import load_recipes, shipped_profiles, shipped_recipes

    profiles = [path.stem for path in shipped_profiles()]
    recipes = {path.stem: load_recipes(path.stem) for path in shipped_recipes()}
    single = [members[0] for name, members in recipes.items() if [m.name for m in members] == [name]]
    sets = {name: [m.name for m in members] for name, members in recipes.items() if [m.name for m in members] != [name]}
    if as_json:
        resolved = [recipe.model_dump(mode="json") for recipe in single]
        print_json({"recipes": resolved, "sets": sets, "calibration_profiles": profiles, "schemes": SCHEMES})
        return
    rows = [(r.name, r.exporter, r.scheme, f"-{r.suffix}", r.title) for r in single]
    rows += [(name, "set", "", "", ", ".join(members)) for name, members in sets.items()]
    print_table(("name", "exporter", "scheme", "suffix", "what it is"), rows)
    click.echo("\nSchemes that a recipe of your own may name, by exporter:")
    for exporter, schemes in SCHEMES.items():
        click.echo(f"  {exporter}: {', '.join(schemes)}")
    click.echo(f"\nCalibration profiles (--set calibration.profile=NAME): {', '.join(profiles)}.")


def _print_yaml(resolved: list[dict[str, Any]]) -> None:
    import yaml

    texts = [yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120) for recipe in resolved]
    click.echo("---\n".join(texts), nl=False)
