"""Options that several commands share, and what they open."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cli.fast_imports import fast_imports

if TYPE_CHECKING:
    from sixfold.checkpoint.provenance import Provenance
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Recipe
    from sixfold.runner.engine import Engine

Command = Callable[..., Any]

_PROVENANCE = {
    "base_model": "Hub id of the model that this one was made from.",
    "license": "License identifier as used on the Hub (apache-2.0, mit, other, ...).",
    "license_name": "Name of the license, if --license is other.",
    "license_link": "Link to the license text.",
    "method": "How the checkpoint was made (pruned, fine-tuned, merged), for the card.",
    "authors": "Who made the checkpoint.",
}


@dataclass(frozen=True)
class Model:
    """A checkpoint as the command line names it, not opened yet."""

    location: str
    revision: str
    name: str
    stated: dict[str, str]

    def open(self, *, headers_only: bool = False) -> "Source":
        """headers_only: do not download a hub id's weights (`read` then raises)."""
        with fast_imports():
            from sixfold.model.source import open_source

            return open_source(
                self.location,
                revision=self.revision,
                name=self.name,
                provenance=self._provenance(),
                headers_only=headers_only,
            )

    def describe(self, experts: int | None = None) -> "Source":
        """What is known before any weight is downloaded. experts: for a bare config.json, instead of its own number of
        experts."""
        with fast_imports():
            from sixfold.model.source import describe_source

            return describe_source(
                self.location, revision=self.revision, name=self.name, provenance=self._provenance(), experts=experts
            )

    def _provenance(self) -> "Provenance | None":
        from sixfold.checkpoint.provenance import Provenance

        return Provenance(**self.stated) if self.stated else None


def paths(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completion of what is a path or a hub id: the shell's own, of paths."""
    return [CompletionItem(begun, type="file")]


def recipe_names(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completion of FORMAT: names of shipped recipes; of anything else, of paths."""
    from sixfold.recipes.recipe_files import shipped

    found = [CompletionItem(path.stem) for path in shipped() if path.stem.startswith(begun)]
    return found or paths(ctx, param, begun)


def model_argument(command: Command) -> Command:
    """MODEL and the options that say which; the command gets one `model: Model`."""

    @wraps(command)
    def call(*args: Any, location: str, revision: str, name: str, **rest: Any) -> Any:
        from sixfold.checkpoint.location import check_location

        check_location(location)  # before anything that takes long to import
        stated = {key: value for key in _PROVENANCE if (value := rest.pop(key, ""))}
        return command(*args, model=Model(location, revision, name, stated), **rest)

    call = click.option("--name", default="", metavar="TEXT", help="Name for outputs, instead of MODEL's own.")(call)
    call = click.option("--revision", default="", metavar="TEXT", help="Branch, tag or commit of a hub id.")(call)
    return click.argument("location", metavar="MODEL", shell_complete=paths)(call)


def provenance_options(command: Command) -> Command:
    """What a card says of the checkpoint, for commands that write cards; over `model_argument`, whose Model gets it."""
    # click shows options in reverse order of its list: those that few runs need come after the command's own.
    command.__dict__.setdefault("__click_params__", [])[:0] = [
        click.Option([f"--{key.replace('_', '-')}"], default="", metavar="TEXT", help=text)
        for key, text in reversed(_PROVENANCE.items())
    ]
    return command


_KEY = re.compile(r"(?:^|\s)(?=[A-Za-z_][\w.-]*=)")


def overrides_option(command: Command) -> Command:
    """--set KEY=VALUE, repeatable; the command gets `overrides: tuple[str, ...]`. --set-all takes several in one text,
    as `make SET=` has them."""

    @wraps(command)
    def call(*args: Any, overrides: tuple[str, ...], together: str, **rest: Any) -> Any:
        return command(*args, overrides=(*overrides, *separated(together)), **rest)

    call = click.option("--set-all", "together", default="", hidden=True)(call)
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a recipe's key, such as calibration.samples=128; can be repeated.",
    )(call)


def separated(together: str) -> tuple[str, ...]:
    """ "a=1 keep=[b, c]" -> its overrides: a new one begins where a key and "=" follow a space, so that values may have
    spaces."""
    return tuple(pair for part in _KEY.split(together) if (pair := part.strip()))


def formats_argument(command: Command) -> Command:
    """FORMAT... (all-formats where none is given) and --set; the command gets `recipes: tuple[Recipe, ...]`."""

    @wraps(command)
    def call(*args: Any, formats: tuple[str, ...], overrides: tuple[str, ...], **rest: Any) -> Any:
        return command(*args, recipes=load_formats(formats or ("all-formats",), overrides), **rest)

    return click.argument("formats", metavar="[FORMAT]...", nargs=-1, shell_complete=recipe_names)(
        overrides_option(call)
    )


def out_option(command: Command) -> Command:
    """--out; the command gets `out: Path`, the root of the output tree."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("artifacts"),
        show_default=True,
        help="Root of the output tree.",
    )(command)


class _Size(click.ParamType):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from sixfold.sizes import parse_size

        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def memory_options(command: Command) -> Command:
    """--host-memory and --device-memory; the command gets `allowed: Allowed`. The result does not depend on them."""

    @wraps(command)
    def call(*args: Any, host_memory: int | None, device_memory: int | None, **rest: Any) -> Any:
        from sixfold.runner.available_memory import Allowed

        return command(*args, allowed=Allowed(host_memory, device_memory), **rest)

    about = "such as 24GB; by default, all that is free."
    call = click.option("--device-memory", type=_Size(), help=f"Memory of each GPU that calibration may use, {about}")(
        call
    )
    return click.option(
        "--host-memory", type=_Size(), help=f"Memory that calibration, and then export, may use, {about}"
    )(call)


def engine_options(command: Command) -> Command:
    """--engine and --address; the command gets `engine: Engine`. The result does not depend on them, where all machines
    are of one kind."""

    @wraps(command)
    def call(*args: Any, engine: str, address: str | None, **rest: Any) -> Any:
        return command(*args, engine=_engine(engine, address), **rest)

    call = click.option(
        "--address", metavar="TEXT", help="With --engine ray: of a running cluster, such as auto or 10.0.0.1:6379."
    )(call)
    return click.option(
        "--engine",
        type=click.Choice(("local", "ray")),
        default="local",
        show_default=True,
        help="Where the work is done; ray: on a Ray cluster, over a shared file system (docs/scaling.md).",
    )(call)


def _engine(name: str, address: str | None) -> "Engine":
    from sixfold.errors import UsageError
    from sixfold.runner.engine import HERE

    if name == "ray":
        from sixfold.runner.ray_engine import ray_engine

        return ray_engine(address)
    if address is not None:
        raise UsageError("--address is of a Ray cluster", "add --engine ray")
    return HERE


def experts_option(command: Command) -> Command:
    """--experts; the command gets `experts: int | None`."""
    return click.option(
        "--experts",
        type=click.IntRange(min=1),
        metavar="N",
        help="If MODEL is a config.json: the number of experts, instead of its own.",
    )(command)


def json_option(command: Command) -> Command:
    """--json; the command gets `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def threads_option(command: Command) -> Command:
    """--threads; the command gets `threads: int`. The result does not depend on it."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        default=_cores,
        show_default="all cores",
        help="How many tensors, or groups of fused ones, are converted in parallel.",
    )(command)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_formats(formats: tuple[str, ...], overrides: tuple[str, ...]) -> "tuple[Recipe, ...]":
    """Names, sets and paths -> resolved recipes, with every exporter's options checked."""
    from sixfold.recipes import recipe_files

    for name in formats:  # before exporters are imported, which takes long
        recipe_files.check_name(name)

    with fast_imports():
        from exporters.registry import exporter_named
        from exporters.schemes import schemes_of
        from sixfold.errors import UsageError
        from sixfold.recipes.recipe import load_recipes

        recipes = [
            recipe
            for name in formats
            for recipe in load_recipes(name, overrides, lambda e: exporter_named(e).Options, schemes_of)
        ]
    names = [recipe.name for recipe in recipes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"{', '.join(repeated)} was given more than once", "name each format once")
    places: dict[tuple[str, str], str] = {}
    for recipe in recipes:
        # GGUFs share a folder and are told apart by their type.
        place = (recipe.suffix, recipe.label if recipe.exporter == "gguf" else "")
        other = places.setdefault(place, recipe.name)
        if other != recipe.name:
            raise UsageError(
                f"{other} and {recipe.name} would replace each other: both are <model>-{'-'.join(filter(None, place))}",
                "give one of them a `suffix` of its own",
            )
    return tuple(recipes)
