"""What a user should know about the texts of a calibration, from the record in its manifest."""

from typing import Any

from calibration.texts.evaluation_sets import WORDS
from sixfold.texts.chat_template import PLAIN


def text_notes(record: dict[str, Any] | None) -> tuple[str, ...]:
    """Sentences without a full stop. record: what calibration.texts.tokens says of the texts; None of none."""
    notes: list[str] = []
    if record is None:
        return ()
    for name, text in record["files"].items():
        for evaluation, count in text["overlap"].items():
            notes.append(
                f"the calibration text {name} shares {count} sequence{'s' if count > 1 else ''} of {WORDS} words with"
                f" the evaluation set {evaluation}: a score on it may come out too high"
            )
        if text["unusable_rows"]:
            notes.append(f"{text['unusable_rows']} rows of the calibration text {name} could not be used")
    for name, domain in record["domains"].items():
        if domain["exhausted"]:
            notes.append(
                f"the calibration text {name} ran out after {domain['samples']} samples; other texts took its share"
            )
    plain = sum(count for how, count in record["conversations"].items() if how.startswith(PLAIN))
    if plain:
        notes.append(f"the chat template refuses {plain} of the conversations, which were written {PLAIN}")
    return tuple(notes)
