"""What to do after an export, as a command that runs as it is printed."""

import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING

from cli.terminal import program, this_command

if TYPE_CHECKING:
    from sixfold.artifact.workspace import Workspace

_AN_ORGANIZATION = "my-lab"
"""A dry run asks for no rights in it."""


def after_export(made: Collection[str], workspace: "Workspace", *, verified: bool) -> str:
    """One line, "" where the run itself said what is wrong. made: variants that are there now, of those asked for."""
    if not verified:
        return f"Next, to verify: {this_command('export', 'export', without={'--no-verify': 1})}"
    variants = _publishable(made, workspace)
    if variants is None:
        return ""
    from publishing.record import last_org

    organization = () if last_org(workspace.folder) else ("--org", _AN_ORGANIZATION)
    where = ("--name", workspace.folder.name, "--out", str(workspace.folder.parent))
    command = ("publish", *variants, "--dry-run", *organization, *where)
    return f"Next, to see what publishing would send: {program()} {shlex.join(command)}"


def _publishable(made: Collection[str], workspace: "Workspace") -> tuple[str, ...] | None:
    """Names to give `publish`, () where they are all there is; None where it would refuse one, or no license is
    stated."""
    from cards.facts.model_facts import read_model
    from publishing.artifacts import find_artifacts, unproven
    from sixfold.errors import SixfoldError

    try:
        every = find_artifacts(workspace.folder)
        licensed = bool(read_model(workspace.folder).provenance.license)
    except SixfoldError:  # a neighbor that cannot be read does not fail what was made
        return None
    wanted = [artifact for artifact in every if artifact.variant in made]
    if not licensed or any(unproven(artifact) for artifact in wanted):
        return None
    return () if len(wanted) == len(every) else tuple(dict.fromkeys(artifact.variant for artifact in wanted))
