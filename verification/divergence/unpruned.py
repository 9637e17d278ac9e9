"""The run of the unpruned model over held-out text: what a pruned checkpoint's variants have lost since.

It is run once, beside the source's own run, for all variants. Pruning leaves tokenizer, embeddings, last norm and head
as they are, so that where it has been run once, the original itself need not be there any more.
"""

from dataclasses import dataclass
from pathlib import Path

from sixfold.artifact.original_model import Original, named_original, original_at_hand
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import Windows
from verification.divergence.divergence import Reference, kept_reference, reference_of


@dataclass(frozen=True)
class Unpruned:
    """of: which model. run: its hidden states."""

    of: Original
    run: Reference


def unpruned_run(source: Source, windows: Windows, cache: Path, progress: Progress) -> Unpruned | None:
    """None where the source was not pruned by `sixfold prune`, or its original is not at hand and was never run, or
    cannot be run: that is no fault of what was made of the source."""
    named = named_original(source.checkpoint.folder)
    if named is None:
        return None
    kept = kept_reference(named.fingerprint, windows, cache)
    if kept is not None:
        return Unpruned(named, kept)
    original = original_at_hand(source.checkpoint.folder)
    try:
        return None if original is None else Unpruned(named, reference_of(original, windows, cache, progress))
    except SixfoldError:
        return None


def can_be_run(source: Source) -> bool:
    """Whether the original of a pruned source is on this machine."""
    return original_at_hand(source.checkpoint.folder) is not None
