"""Calibration for the commands that need it: run where there is none yet, and told as it goes; and its tokens."""

from typing import TYPE_CHECKING

from cli.terminal import progress, say

if TYPE_CHECKING:
    import torch

    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration, Recipe
    from sixfold.runner.available_memory import Allowed
    from sixfold.runner.engine import Engine
    from sixfold.statistics.statistics import Statistics


def calibrated(
    source: "Source",
    profile: "Calibration",
    workspace: "Workspace",
    allowed: "Allowed",
    *,
    engine: "Engine",
    quiet: bool,
) -> "Statistics":
    """The profile's statistics. Raises SixfoldError as `calibration.calibrate.calibrate`."""
    from calibration.calibrate import calibrate
    from calibration.forward_pass.coverage import summary
    from calibration.texts.text_notes import text_notes

    say(_announced(profile), quiet)
    done = calibrate(source, profile, workspace.calibration(profile), progress=progress, allowed=allowed, engine=engine)
    for sentence in done.history:
        say(sentence, quiet)
    for note in text_notes(done.statistics.manifest.get("tokens")):
        say(note, quiet)
    say(f"calibration {'is current' if done.skipped else 'done'}. {summary(done.coverage)}".rstrip(), quiet)
    return done.statistics


def _announced(profile: "Calibration") -> str:
    if profile.imatrix is not None:
        return f"taking statistics from the importance matrix {profile.imatrix}, if needed"
    return f"calibrating on {profile.samples} samples of {profile.length} tokens, if needed"


def tokens_of(source: "Source", recipe: "Recipe", quiet: bool) -> "torch.Tensor":
    """The calibration's tokens, for external tools that calibrate themselves and for probes."""
    from calibration.texts.text_notes import text_notes
    from calibration.texts.tokens import token_batches
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.errors import SixfoldError

    if recipe.calibration.imatrix is not None:
        raise SixfoldError(
            f"{recipe.name} calibrates on texts itself, and an importance matrix holds none",
            "leave calibration.imatrix out for it",
        )
    batches = token_batches(recipe.calibration, load_tokenizer(source.checkpoint.folder))
    for note in text_notes(batches.record):
        say(note, quiet)
    return batches.ids
