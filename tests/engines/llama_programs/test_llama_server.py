"""HumanEval and answers that end by llama.cpp's server on a real model: SmolLM2-135M-Instruct, twice the same file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.llama_programs.test_llama_memory import smollm2

pytestmark = pytest.mark.engines

ASKED = ("--problems", "20", "--answers", "4", "--max-tokens", "256")


@pytest.fixture(scope="module")
def model() -> Path:
    try:
        return smollm2()
    except Unavailable as reason:
        pytest.skip(str(reason))


def command(model: Path, results: Path) -> list[str]:
    return [sys.executable, "-m", "sixfold", "evaluate", str(model), *ASKED, "--results", str(results)]


def environment(llama_tools: Path) -> dict[str, str]:
    return {**os.environ, "SIXFOLD_LLAMA_CPP": str(llama_tools), "PYTHONPATH": str(Path(__file__).parents[3])}


def evaluated(model: Path, results: Path, llama_tools: Path) -> bytes:
    subprocess.run(command(model, results), env=environment(llama_tools), check=True)
    return (results / "evaluation.json").read_bytes()


def test_smollm2_twice_and_killed_in_the_middle(model: Path, llama_tools: Path, tmp_path: Path) -> None:
    first = evaluated(model, tmp_path / "one", llama_tools)
    process = subprocess.Popen(command(model, tmp_path / "two"), env=environment(llama_tools))
    deadline = time.monotonic() + 600
    while answered(tmp_path / "two") < 15 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 15 <= answered(tmp_path / "two") < 44
    assert evaluated(model, tmp_path / "two", llama_tools) == first
    print_figures(json.loads(first), json.loads((tmp_path / "one" / "speed.json").read_text()))


def answered(results: Path) -> int:
    """Lines behind the first of each file."""
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in results.glob("evaluation/*.jsonl"))


def print_figures(found: dict[str, Any], speed: dict[str, Any]) -> None:
    (entry,) = found["benchmarks"]
    completed, raw, endings = entry["completed"], entry["raw"], found["endings"]
    assert sum(outcome == "passed" for outcome in entry["outcomes"].values()) == entry["passed"]
    assert sum(outcome == "cut off" for outcome in entry["outcomes"].values()) == entry["truncated"]
    sys.stdout.write(
        f"\n{entry['engine']}: strict {entry['passed']} of {entry['answers']}, completed {completed['passed']} of"
        f" {completed['answers']}, raw {raw['passed']} of {raw['answers']}; {endings['ended']} of {endings['answers']}"
        f" answers ended, {endings['looping']} in a loop; {speed['generation']} tokens a second,"
        f" {speed['peak_memory']:,} bytes\n"
    )
