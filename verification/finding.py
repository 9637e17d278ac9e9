"""What a check found wrong with an artifact."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """check: id of the check, "subject.problem". where: the tensor, file or key it is about.

    what: what is wrong. consequence: what an engine would do with it. remedy: how to fix it.
    severity: an error fails the artifact; a warning is for a reader to judge.
    """

    check: str
    where: str
    what: str
    consequence: str
    remedy: str
    severity: Severity = "error"

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


EXPORT_AGAIN = "export the variant again"

Subject = TypeVar("Subject")


def run_checks(checks: Iterable[Callable[[Subject], Iterator[Finding]]], subject: Subject) -> list[Finding]:
    """Every finding of every check, each once. An exception in a check is unforeseen damage, and becomes a finding."""
    found: dict[Finding, None] = {}
    for check in checks:
        try:
            found.update(dict.fromkeys(check(subject)))
        except Exception as error:  # whatever strange files make it raise, the other checks must still run
            what = f"{check.__module__.rpartition('.')[2]}.{check.__name__} stopped: {type(error).__name__}: {error}"
            found[Finding("check.stopped", check.__name__, what, "unknown", "report it with the artifact")] = None
    return list(found)
