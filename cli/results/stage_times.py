"""How long the stages of a run took, and how much of that the disk alone would have taken."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cli.terminal import print_filled, seconds_text
from sixfold.sizes import size


@dataclass
class StageTime:
    """read, written: bytes of weights; 0 where nothing counts them. foretold: seconds; 0 where nothing was."""

    name: str
    seconds: float = 0.0
    foretold: float = 0.0
    read: int = 0
    written: int = 0


class StageTimes:
    """In the order in which stages first began."""

    def __init__(self) -> None:
        self._stages: dict[str, StageTime] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[StageTime]:
        """Adds to what the stage took before."""
        stage = self._stages.setdefault(name, StageTime(name))
        begun = time.monotonic()
        try:
            yield stage
        finally:
            stage.seconds += time.monotonic() - begun

    def foretell(self, name: str, foretold: Mapping[str, float]) -> None:
        """What a stage that was begun would take, where that is known."""
        self._stages[name].foretold = foretold.get(name, 0.0)

    @property
    def stages(self) -> Sequence[StageTime]:
        return tuple(self._stages.values())


def print_stage_times(stages: Sequence[StageTime]) -> None:
    """With what was foretold, and the share of the disk's speed, where the machine was measured (`sixfold plan
    --measure`)."""
    from sixfold.runner.machine_speed import measured_speed

    speed = measured_speed()
    rows = []
    for stage in stages:
        moved = speed is not None and stage.read + stage.written > 0 and stage.seconds > 0
        alone = speed.disk_seconds(stage.read, stage.written) / stage.seconds if speed is not None and moved else None
        cells = [size(stage.read) if stage.read else "-", size(stage.written) if stage.written else "-"]
        foretold = seconds_text(stage.foretold) if stage.foretold else "-"
        share = "-" if alone is None else f"{alone:.0%}"
        rows.append((stage.name, seconds_text(stage.seconds), foretold, *cells, share))
    print_filled(("stage", "took", "foretold", "read", "written", "of the disk's speed"), rows)
