"""What benchmarks share that measure several tools in turns, each run in a process of its own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ONE = "--one"
"""First argument of the process that makes a single run and prints its result as the last line, JSON."""


def options_of(documentation: str | None, *, samples: int, runs: int) -> argparse.ArgumentParser:
    """MODEL, how many token windows of which length, how often, and where the report goes."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--json", type=Path)
    return parser


def one_run(module: str, name: str, *arguments: object) -> dict[str, Any]:
    """What `python -m module --one name arguments...` prints. Raises RuntimeError with the end of its log."""
    command = [sys.executable, "-m", module, ONE, name, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2))
