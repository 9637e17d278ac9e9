"""A program that stands for llama-server: canonical solutions for an hour, or whatever the environment says.

FAKE_SECONDS: that one answer takes. FAKE_TRUNCATED: task ids, comma-separated, whose answers are cut off. FAKE_WRONG:
whose answers are wrong. FAKE_CRASH: after so many answers it ends. Its process id goes to the file FAKE_PID.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evaluation.benchmarks.humaneval import Problem, problems
from tests.evaluation.stub import said, send


def install(folder: Path, name: str = "llama-server") -> None:
    """The program, in `folder`."""
    program = folder / name
    root = Path(__file__).parents[2]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.evaluation.fake_engine import main\nmain()\n"
    )
    program.chmod(0o755)


def names(variable: str) -> set[str]:
    return set(filter(None, os.environ.get(variable, "").split(",")))


def problem_of(body: dict[str, Any]) -> Problem | None:
    text = body.get("prompt") or body["messages"][-1]["content"]
    return next((p for p in problems() if p.prompt.strip() in text), None)


def reply(body: dict[str, Any]) -> dict[str, Any]:
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    problem = problem_of(body)
    if problem is None:  # a prompt of "answers that end"
        loops = "Write a" in body["messages"][-1]["content"]
        return said("over and over " * 40, "length") if loops else said(f"It ends. Seed {body['seed']}.")
    solution = "    return None\n" if problem.task_id in names("FAKE_WRONG") else problem.canonical_solution
    finish = "length" if problem.task_id in names("FAKE_TRUNCATED") else "stop"
    if "prompt" in body:
        return said(f"\n{solution}", finish)
    return said(f"<think>hm</think>Here it is:\n```python\n{problem.prompt}{solution}\n```", finish)


class Handler(BaseHTTPRequestHandler):
    answered = 0

    def do_GET(self) -> None:
        send(self, 200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.answered += 1
        if str(Handler.answered) == os.environ.get("FAKE_CRASH"):
            sys.stdout.write("an error: out of luck\n")
            sys.stdout.flush()
            os._exit(9)
        send(self, 200, reply(body))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    if "--version" in sys.argv:
        if "llama" in sys.argv[0]:
            sys.stderr.write("version: 1 (fake)\n")
        else:
            sys.stdout.write("1 (fake)\n")
        return
    if "FAKE_PID" in os.environ:
        Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
