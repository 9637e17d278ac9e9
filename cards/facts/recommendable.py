"""Whether a variant can be recommended: what verification found, and whether its files are complete."""

from dataclasses import dataclass

from cards.facts.variant import Variant

STATES = ("passed", "failed", "unverified", "incomplete")


@dataclass(frozen=True)
class Standing:
    """state: of STATES. why: in one sentence, "" where it passed. lost: files of the manifest that are not there as it
    says, by their size alone (`sixfold status` compares hashes too). warnings: how many verification gave."""

    state: str
    why: str
    lost: tuple[str, ...]
    warnings: int = 0

    @property
    def label(self) -> str:
        """ "passed", or "passed, 2 warnings": what a badge says."""
        if self.state != "passed" or not self.warnings:
            return self.state
        return f"passed, {self.warnings} warning{'' if self.warnings == 1 else 's'}"


def standing_of(variant: Variant) -> Standing:
    verdict = variant.artifact.verdict
    lost = _lost(variant)
    if lost:
        return Standing("incomplete", f"{lost[0]} is missing, or its size differs from the manifest", lost)
    if verdict is None:
        return Standing("unverified", "not verified", ())
    warnings = sum(finding.severity == "warning" for finding in variant.verification.findings)
    return Standing(*(("passed", "") if verdict.passed else ("failed", verdict.failures[0])), (), warnings)


def _lost(variant: Variant) -> tuple[str, ...]:
    folder = variant.artifact.folder
    return tuple(
        name
        for name, record in variant.artifact.manifest["files"].items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != record["bytes"]
    )
