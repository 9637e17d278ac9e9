"""How long a plan would take on this machine, once it was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.terminal import print_table, seconds_text, this_command
from sixfold.sizes import size

if TYPE_CHECKING:
    from exporters.export.planning import Planned
    from sixfold.model.source import Source
    from sixfold.runner.machine_speed import MachineSpeed, SideBySide, SmallJob

CARDS = "cards and report"
_WALK = ", one walk for all"


@dataclass(frozen=True)
class Stage:
    """key: as `SmallJob` names it. seconds: of all, `start` of which it takes before and after weights. beside: seconds
    of all that goes on side by side in it, without overhead. bound_by: what takes longest of it."""

    key: str
    name: str
    seconds: float
    start: float
    bound_by: str
    beside: "SideBySide"


def measured(out: Path, *, anew: bool, quiet: bool) -> "MachineSpeed | None":
    """What was measured of this machine, now if `anew`; None where nothing was."""
    from cli.overhead import overhead
    from cli.small_job import small_job
    from exporters.export.speed import compile_all, rounding_speed
    from sixfold.runner.machine_speed import keep, measure, measured_speed

    if not anew:
        return measured_speed()
    click.echo("measuring the disk, the cores and the GPU of this machine, some minutes", err=True)
    compile_all()
    job = small_job(out)  # first: what a stage takes to begin is measured once in a process
    speed = measure(out, rounding_speed(), job)
    speed = replace(speed, job=replace(job, overhead=overhead(out, speed)))
    path = keep(speed)
    click.echo(
        f"{speed.cores} cores{f', {speed.gpu}' if speed.gpu else ''}; the disk of {out} reads {size(speed.read)} and"
        f" writes {size(speed.write)} a second; {speed.products / 1e12:.3g} TFLOP a second; kept in {path}",
        err=quiet,
    )
    return speed


def forecast(source: "Source", planned: "Sequence[Planned]", speed: "MachineSpeed") -> list[Stage]:
    """Calibrations that the plan needs, the walk that makes all variants, and that which verifies them. Nothing is
    taken as done already."""
    from calibration.forward_pass.forecast import pass_seconds
    from exporters.export.planning import needs_statistics
    from exporters.export.speed import export_seconds
    from verification.forecast import verification_seconds

    possible = [entry for entry in planned if entry.refusal is None]
    recipes = [entry.recipe for entry in possible if needs_statistics(entry.recipe)]
    stages = [
        _stage(
            "calibration",
            f" on {profile.samples} x {profile.length} tokens",
            pass_seconds(source, profile, speed),
            speed.job,
        )
        for profile in dict.fromkeys(recipe.calibration for recipe in recipes)
        if profile.imatrix is None
    ]
    plans = [(entry.recipe, entry.plan) for entry in possible if entry.plan is not None]
    if plans:
        stages.append(_stage("export", _WALK, export_seconds(source, possible, speed), speed.job))
        stages.append(_stage("verification", _WALK, verification_seconds(source, plans, speed), speed.job))
    if CARDS in speed.job.start:
        stages.append(_stage(CARDS, "", ({"start-up": 0.0},), speed.job))
    return stages


def foretold_here(source: "Source", planned: "Sequence[Planned]") -> "dict[str, float]":
    """Seconds by stage; {} where this machine was not measured."""
    from sixfold.runner.machine_speed import measured_speed

    speed = measured_speed()
    found: dict[str, float] = {}
    for stage in forecast(source, planned, speed) if speed is not None else ():
        found[stage.key] = found.get(stage.key, 0.0) + stage.seconds
    return found


def of_the_disk(parts: "Mapping[str, float]") -> bool:
    return parts.keys() == {"disk"}


def _stage(key: str, more: str, found: "SideBySide", job: "SmallJob") -> Stage:
    """Its longest part, where that is not the disk's with what is lost between all parts of a walk."""
    overhead = job.overhead.get(key, 1.0)

    def seconds(parts: "Mapping[str, float]") -> float:
        return sum(parts.values()) * (1.0 if of_the_disk(parts) else overhead)

    longest = max(found, key=seconds)
    start = job.start.get(key, 0.0)
    return Stage(key, key + more, start + seconds(longest), start, max(longest, key=lambda part: longest[part]), found)


def print_forecast(stages: Sequence[Stage], price: float | None, process: float) -> None:
    """price: of an hour. process: seconds until one has imported all stages."""
    from sixfold.runner.machine_speed import measured_otherwise

    if not stages:
        command = this_command("plan", "plan", without={})
        if measured_otherwise():
            click.echo(f"What was measured of this machine is another version's; measure it again: {command} --measure")
        else:
            click.echo(f"To have the time foretold, measure this machine once: {command} --measure")
        return
    click.echo(f"A process of this machine begins to work after {seconds_text(process)}.")
    print_table(
        ("stage", "start-up", "foretold", "bound by"),
        [(stage.name, seconds_text(stage.start), seconds_text(stage.seconds), stage.bound_by) for stage in stages],
    )
    whole = hours(stages)
    cost = "" if price is None else f", {whole * price:.2f} at {price:g} an hour"
    click.echo(f"{whole:.2f} hours on this machine{cost}, start-up of each stage included.")


def hours(stages: Sequence[Stage]) -> float:
    """Of all, one after the other."""
    return sum(stage.seconds for stage in stages) / 3600
