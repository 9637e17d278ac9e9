"""What `plan` says of the time, and `export` of what it took."""

import io
import json
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from cli.main import run
from cli.results.forecast import CARDS
from cli.results.stage_times import StageTimes, print_stage_times
from sixfold.runner.machine_speed import SCHEMA, MachineSpeed, Rounding, SmallJob, keep
from tests.exporters.exported import DEMO

ONE_HOUR = MachineSpeed(
    1,
    "",
    7.6e6,
    5.1e6,
    digest=1e15,
    products=1e15,
    singles=1e9,
    rounding={"fp8": Rounding(1e-3)},
    kept=1,
    moved=1,
    job=SmallJob(2.0, {"verification": 5.0, CARDS: 2.0}, {}, 0.0, 0.0),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def printed(*arguments: str) -> str:
    found = io.StringIO()
    with redirect_stdout(found):
        assert run(list(arguments)) == 0
    return found.getvalue()


def test_a_plan_ends_with_the_time_and_its_cost_once_the_machine_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("plan", str(DEMO), "fp8", "--out", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["sixfold", *arguments])
    assert f"measure this machine once: sixfold {shlex.join(arguments)} --measure" in printed(*arguments)
    path = keep(ONE_HOUR)
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 3'))
    assert "is another version's; measure it again: sixfold plan" in printed(*arguments)
    keep(ONE_HOUR)
    found = json.loads(printed(*arguments, "--json", "--price", "30"))
    stages = found["stages"]
    assert found["cost"] == pytest.approx(30 * found["hours"])
    assert [(stage["stage"], stage["bound_by"]) for stage in stages] == [
        ("export, one walk for all", "cores"),
        ("verification, one walk for all", "products"),
        (CARDS, "start-up"),
    ]
    lines = printed(*arguments, "--price", "30").splitlines()
    assert stages[1]["seconds"] > stages[1]["start"] == 5.0
    hours = sum(stage["seconds"] for stage in stages) / 3600
    assert (
        f"{hours:.2f} hours on this machine, {hours * 30:.2f} at 30 an hour, start-up of each stage included."
        in lines[-2]
    )


def test_an_export_says_what_each_stage_took_and_how_much_of_it_was_the_disks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = StageTimes()
    with times.timed("export") as stage:
        stage.read, stage.written = 76_000_000, 51_000_000
    with times.timed("cards"):
        pass
    stage.seconds = 40.0
    print_stage_times(times.stages)
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert (head.split(), row.split()[:3]) == (["stage", "took", "read", "written"], ["export", "40.0", "s"])
    keep(ONE_HOUR)
    times.foretell("export", {"export": 30.0})
    print_stage_times(times.stages)
    head, row, cards, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["stage", "took", "foretold"]
    assert row.split()[:5] == ["export", "40.0", "s", "30.0", "s"]
    assert row.split()[-1] == "50%"  # 10 s to read and 10 s to write
    assert cards.split()[-4:] == ["-", "-", "-", "-"]


def test_what_a_walk_loses_between_its_parts_is_not_lost_by_the_disk(tmp_path: Path) -> None:
    def seconds(speed: MachineSpeed) -> tuple[str, float]:
        keep(speed)
        stages = json.loads(printed("plan", str(DEMO), "fp8", "--out", str(tmp_path), "--json"))["stages"]
        return stages[0]["bound_by"], stages[0]["seconds"]

    bound_by, plain = seconds(ONE_HOUR)
    assert bound_by == "cores"
    twice = replace(ONE_HOUR, job=replace(ONE_HOUR.job, overhead={"export": 2.0}))
    assert seconds(twice) == ("cores", pytest.approx(2 * plain))
    slow = replace(ONE_HOUR, write=1.0)
    bound_by, by_disk = seconds(slow)
    assert bound_by == "disk"
    assert seconds(replace(slow, job=twice.job)) == ("disk", pytest.approx(by_disk))
