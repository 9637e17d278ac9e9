"""What a check found wrong with an artifact."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """check: id of the check, "subject.problem". where: the tensor, file or key it is about.

    what: what is wrong. consequence: what an engine would do with it. remedy: how to mend it.
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
