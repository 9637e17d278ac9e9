"""What a reader must know before using a variant: each sentence is there because a file says so."""

from collections.abc import Iterator, Sequence

from cards.facts.traced import Fact, derived, shown
from cards.facts.variant import Variant
from cards.model_card.rendering import counted


def limits_of(mine: Sequence[Variant], pruning_manifest: Fact, license_stated: bool) -> list[str]:
    """Most important first: what failed."""
    found = [sentence for variant in mine for sentence in _verdict(variant)]
    found += [sentence for variant in mine for sentence in _uneven(variant)]
    calibrations = {variant.statistics.path: variant.statistics for variant in mine if variant.statistics}
    found += [sentence for calibration in calibrations.values() for sentence in _calibration(calibration)]
    found += [shown(note, "sentence") for note in pruning_manifest.notes]
    if not license_stated:
        found.append("No license was stated for the checkpoint; ask its authors before you use or publish it.")
    return list(dict.fromkeys(found))


def _verdict(variant: Variant) -> Iterator[str]:
    if not variant.verification:
        yield f"{variant.label} was not verified: neither its structure nor its distance from BF16 is known."
    for finding in variant.verification.findings:
        what = f"{shown(finding.where, 'text')}: {shown(finding.what, 'text')}"
        if finding.severity == "error":
            yield f"**{variant.label} is not sound.** {what}; {shown(finding.consequence, 'text')}."
        else:
            yield f"{variant.label}: {what}."
    for sentence in variant.evaluation.findings:
        yield f"**{variant.label}**: {shown(sentence, 'sentence')}"
    reason = variant.verification.smoke.not_run
    if reason:
        yield f"{variant.label} was not run on the prompts: {shown(reason, 'text')}."


def _uneven(variant: Variant) -> Iterator[str]:
    for devices, linears in variant.verification.tensor_parallel.pairs():
        if linears:
            names = ", ".join(f"`{shown(name)}`" for name in linears)
            yield f"Tensor parallelism over {shown(devices)} GPUs does not divide {names} evenly; engines may refuse."


def _calibration(manifest: Fact) -> Iterator[str]:
    starved = derived("starved", manifest.coverage) if manifest.coverage else None
    if starved:
        chosen = {"average": "the average over the layer's other experts", "all_experts": "extra tokens"}
        stand_in = chosen.get(manifest.profile.starved.value, "nothing")
        yield (
            f"{counted(starved, 'expert')} saw fewer than {shown(manifest.profile.min_tokens)} tokens in calibration;"
            f" their statistics are replaced by {stand_in}."
        )
    if manifest.without_statistics:
        names = ", ".join(f"`{shown(name)}`" for name in manifest.without_statistics)
        yield f"Not quantized, as transformers does not run them (multi-token prediction): {names}."
    for name, text in manifest.tokens["files"].pairs():
        for evaluation, count in text.overlap.pairs():
            yield (
                f"The calibration text {shown(name, 'text')} shares {counted(count, 'sequence')} of thirteen words with"
                f" {shown(evaluation)}: a score on that may come out too high."
            )
