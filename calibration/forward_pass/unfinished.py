"""How far a calibration pass is: where the next run resumes after a kill."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.workspace import read_json, write_json

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Reached:
    """key: digest of all that decides the statistics. turn, checksum: of the hidden states that the next layer reads
    (sixfold.runner.hidden_states). files: the finished layers' statistics, in order. routed: decoder layer -> tokens
    routed to each of its experts.
    """

    key: str
    turn: int
    checksum: int
    files: Mapping[str, FileRecord]
    routed: Mapping[int, tuple[int, ...]]


def write_reached(work: Path, reached: Reached) -> None:
    write_json(work / PROGRESS, asdict(reached))


def finished_layers(work: Path) -> int | None:
    """How many files an unfinished pass has left in `work`, whatever its inputs were; None where there is none."""
    found = read_json(work / PROGRESS)
    return None if found is None else len(found["files"])


def read_reached(work: Path, key: str) -> Reached | None:
    """None if there is nothing to resume: no pass was begun, it had other inputs, or its files are incomplete."""
    found = read_json(work / PROGRESS)
    if found is None or found.get("key") != key:
        return None
    files = {name: FileRecord(**record) for name, record in found["files"].items()}
    if any(not (work / n).is_file() or (work / n).stat().st_size != r.bytes for n, r in files.items()):
        return None
    routed = {int(layer): tuple(counts) for layer, counts in found["routed"].items()}
    return Reached(key, found["turn"], found["checksum"], files, routed)
