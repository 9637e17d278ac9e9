"""sixfold evaluate from its command line to its files, through an engine that says what it is told to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli import main as cli
from tests.evaluation.fake_engine import install
from tests.evaluation.sandboxes import SANDBOXES
from tests.evaluation.stub import said, serving

UNSAFE = () if SANDBOXES else ("--unsafe",)
"""Where nothing isolates, as in many containers, these tests' own answers may run all the same: they are known."""
FEW = ("--problems", "2", "--answers", "4", "--max-tokens", "64", *UNSAFE)
SIX = ("--problems", "6", "--answers", "4", "--max-tokens", "64", *UNSAFE)
SIXTEEN = ("--problems", "2", "--answers", "12", "--max-tokens", "64", *UNSAFE)
"""Answers: enough to be stopped among them."""


def prepare(folder: Path, environment: pytest.MonkeyPatch) -> Path:
    programs = folder / "programs"
    programs.mkdir()
    install(programs)
    environment.setenv("SIXFOLD_LLAMA_CPP", str(programs))
    environment.setenv("FAKE_PID", str(folder / "pid"))
    path = folder / "models" / "m-Q4.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the fake llama-server does not look at."""
    return prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """evaluation.json of a file like `gguf`, of a run that nothing stops."""
    with pytest.MonkeyPatch.context() as environment:
        path = prepare(tmp_path_factory.mktemp("undisturbed"), environment)
        assert evaluate(path, *SIXTEEN) == 0
    return path.with_name(f"{path.name}.evaluation.json").read_bytes()


def evaluate(*arguments: str | Path) -> int:
    return cli.run(["evaluate", *map(str, arguments)])


def result(gguf: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gguf.with_name(f"{gguf.name}.evaluation.json").read_text())
    return found


def gone(pid_file: Path, seconds: float = 15) -> bool:
    pid, deadline = int(pid_file.read_text()), time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_three_numbers_from_known_answers(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of six right answers, two are cut off and one is made wrong: 3 of 6 strict, 3 of 4 completed, 5 of 6 raw."""
    monkeypatch.setenv("FAKE_TRUNCATED", "HumanEval/1,HumanEval/4")
    monkeypatch.setenv("FAKE_WRONG", "HumanEval/2")
    assert evaluate(gguf, *SIX) == 0
    (entry,) = result(gguf)["benchmarks"]
    assert (entry["passed"], entry["answers"], entry["truncated"]) == (3, 6, 2)
    assert (entry["completed"]["passed"], entry["completed"]["answers"]) == (3, 4)
    assert (entry["raw"]["passed"], entry["raw"]["answers"], entry["raw"]["truncated"]) == (5, 6, 2)
    assert entry["outcomes"] == {
        "HumanEval/0": "passed", "HumanEval/1": "cut off", "HumanEval/2": "a wrong result", "HumanEval/3": "passed",
        "HumanEval/4": "cut off", "HumanEval/5": "passed",
    }  # fmt: skip
    assert (entry["thinking"], entry["raw"]["thinking"]) == (6, 0)
    assert entry["engine"] == {"name": "llama-server", "build": "1 (fake)"}
    out = capsys.readouterr().out
    assert "strict (cut off = failed)       3   6  50.0%" in out
    assert "on completed problems           3   4  75.0%" in out
    assert gone(gguf.parent.parent / "pid")


def test_answers_that_end(gguf: Path, tmp_path: Path) -> None:
    """Of MT-Bench's first four prompts one asks to write something, which the fake engine never ends."""
    assert evaluate(gguf, "--task", "answers", "--answers", "82") == 0
    found = result(gguf)["endings"]
    looping = [name for name, outcome in found["outcomes"].items() if "looping" in outcome]
    assert len(looping) == found["looping"] == found["answers"] - found["ended"] > 0
    assert "MT-Bench/81#1" in found["outcomes"]  # the second sample of the first prompt
    records = (gguf.parent / f"{gguf.name}.evaluation" / found["records"]).read_text().splitlines()
    by_key = {(row["task_id"], row["sample"]): row["text"] for row in map(json.loads, records[1:])}
    assert by_key["MT-Bench/82", 1].endswith(("Seed 1.", "over and over "))


def test_two_runs_give_the_same_file(gguf: Path, undisturbed: bytes, tmp_path: Path) -> None:
    assert evaluate(gguf, *SIXTEEN, "--results", tmp_path / "again") == 0
    assert (tmp_path / "again" / "evaluation.json").read_bytes() == undisturbed
    speed = json.loads((tmp_path / "again" / "speed.json").read_text())
    assert speed["answers"] == 16
    assert speed["command"].startswith("llama-server --model m-Q4.gguf --host 127.0.0.1 --jinja")


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_where_it_was(
    way: signal.Signals, gguf: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    command = [sys.executable, "-m", "sixfold", "evaluate", str(gguf), *SIXTEEN]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    # A job in the background ignores SIGINT, and hands that on to what it starts.
    def heard() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    folder = gguf.with_name(f"{gguf.name}.evaluation")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sum(map(lines, folder.glob("*.jsonl"))) < 3 + 4:
        time.sleep(0.02)
    process.send_signal(way)
    _, said_last = process.communicate(timeout=60)
    code, word = {
        signal.SIGINT: (130, "interrupted; run the same command again to resume"),
        signal.SIGTERM: (143, "terminated; run the same command again to resume"),
        signal.SIGKILL: (-signal.SIGKILL, ""),
    }[way]
    assert process.returncode == code
    assert word in said_last
    assert gone(tmp_path / "pid")
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    assert 0 < sum(data.count(b"\n") - 1 for data in before.values()) < 16
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert evaluate(gguf, *SIXTEEN) == 0
    assert gguf.with_name(f"{gguf.name}.evaluation.json").read_bytes() == undisturbed
    for name, data in before.items():  # appended to, and no answer twice
        after = (folder / name).read_bytes()
        assert after.startswith(data[: data.rfind(b"\n") + 1])
        keys = [(row["task_id"], row["sample"]) for row in map(json.loads, after.splitlines()[1:])]
        assert len(set(keys)) == len(keys)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_an_engine_that_crashes(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_CRASH", "3")
    assert evaluate(gguf, *FEW) == 1
    said_last = capsys.readouterr().err
    assert "llama-server ended with exit code 9 (an error: out of luck); see its log, and run the same" in said_last
    assert not gguf.with_name(f"{gguf.name}.evaluation.json").exists()
    monkeypatch.delenv("FAKE_CRASH")
    assert evaluate(gguf, *FEW) == 0
    assert result(gguf)["benchmarks"][0]["passed"] == 2


def test_a_baseline_is_asked_in_the_same_way(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = gguf.with_name("m-BF16.gguf")
    other.write_bytes(b"GGUF too")
    monkeypatch.setenv("FAKE_WRONG", "HumanEval/1,HumanEval/5")
    assert evaluate(gguf, *SIX) == 0
    monkeypatch.setenv("FAKE_WRONG", "HumanEval/0")
    assert evaluate(gguf, *SIX, "--baseline", other) == 0
    baseline = result(gguf)["benchmarks"][0]["baseline"]
    assert (baseline["name"], baseline["passed"]) == ("m-BF16.gguf", 5)
    assert baseline["gained"] == ["HumanEval/0"]
    assert baseline["lost"] == ["HumanEval/1", "HumanEval/5"]
    assert baseline["p"] == 1.0  # exactly: 2 * (1 + 3) / 8
    assert "gained 1 (HumanEval/0); lost 2 (HumanEval/1, HumanEval/5)" in capsys.readouterr().out
    assert result(gguf)["endings"]["baseline"]["more_looping"] == 0


def test_a_gate_that_does_not_hold(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(gguf, "--task", "answers", "--answers", "2", "--max-more-looping", "0.1") == 3
    assert "max_more_looping=0.1 was not measured" in capsys.readouterr().out
    assert not result(gguf)["passed"]


def test_what_was_evaluated_before_stays(gguf: Path) -> None:
    assert evaluate(gguf, *FEW, "--task", "humaneval-raw") == 0
    assert "passed" not in result(gguf)["benchmarks"][0]
    assert evaluate(gguf, *FEW, "--task", "humaneval") == 0
    assert evaluate(gguf, *FEW, "--task", "answers") == 0
    found = result(gguf)
    assert (found["benchmarks"][0]["passed"], found["benchmarks"][0]["raw"]["passed"]) == (2, 2)
    assert found["endings"]["answers"] == 4
    gguf.write_bytes(b"GGUF again")  # another artifact
    assert evaluate(gguf, *FEW, "--task", "answers") == 0
    assert result(gguf)["benchmarks"] == []


def test_an_endpoint_that_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    with serving(lambda body: said("#### 18")) as stub:
        assert evaluate(
            "--endpoint", stub.url, "--api-key-env", "STUB_KEY", "--task", "gsm8k", "--problems", "3",
            "--results", tmp_path, "--price", "1", "2",
        ) == 0  # fmt: skip
    (entry,) = json.loads((tmp_path / "evaluation.json").read_text())["benchmarks"]
    assert (entry["name"], entry["passed"], entry["answers"]) == ("GSM8K", 1, 3)  # the first one's answer is 18
    speed = json.loads((tmp_path / "speed.json").read_text())
    assert speed["cost"] == round((15 * 1 + 21 * 2) / 1e6, 6)
    assert (speed["command"], speed["machine"], speed["peak_memory"]) == (None, None, None)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is nothing to evaluate; name an artifact, or an --endpoint"),
        (("nowhere",), "there is no folder or file nowhere"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--api-key-env", "NO_KEY"), "the environment has no NO_KEY"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "does not say which models it serves"),
        (("tests",), "tests holds no config.json; give the folder of a model, or a GGUF file"),
        (("README.md",), "README.md is no GGUF file"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert evaluate(*arguments) in (1, 2)
    said_last = capsys.readouterr().err
    assert sentence in said_last
    assert said_last.count("\n") == 1
