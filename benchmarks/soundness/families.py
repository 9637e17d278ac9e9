"""Every family through every stage, and what became of it.

Usage: python -m benchmarks.soundness.families [FAMILY]... [--formats NAME...] [--shard I/N] [--timeout SECONDS]
                                               [--results FILE]
       python -m benchmarks.soundness.families --show FILE...

Each family runs in a process of its own, with a time limit. Every result is appended to FILE as a line of JSON as soon
as there is one; families that FILE has in full are not run again. --shard: of the families every N-th, beginning with
the I-th, for N processes of which each has a FILE; --show then prints the table of them all. The table is followed by
every sentence once, with the families that it was said of.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.soundness.family_stages import FORMATS, Result, sweep
from tests.every_family import families

DONE = "done"
"""Stage of the line behind a family's last one."""


def apart(family: str, formats: tuple[str, ...], timeout: float) -> Iterator[Result]:
    """`sweep` in a process of its own, which is killed with all that it started when its time is over."""
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as root:
        process = context.Process(target=_send, args=(family, formats, root, sender))
        process.start()
        sender.close()
        try:
            yield from _received(family, results, time.monotonic() + timeout)
        finally:
            if process.is_alive() and process.pid is not None:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _received(family: str, results: Connection, ends: float) -> Iterator[Result]:
    stage = "inspect"
    try:
        while results.poll(max(0.0, ends - time.monotonic())):
            result: Result = results.recv()
            yield result
            if result.stage == DONE:
                return
            stage = f"after {result.stage}"
        yield Result(family, stage, "UNFINISHED", "its time was over")
    except EOFError:
        yield Result(family, stage, "UNFINISHED", "its process died")


def _send(family: str, formats: tuple[str, ...], root: str, results: Connection) -> None:
    from transformers.utils import logging

    os.setsid()
    logging.disable_progress_bar()
    for result in sweep(family, Path(root), formats):
        results.send(replace(result, sentence=result.sentence.replace(f"{root}/{family}", "MODEL")))
    results.send(Result(family, DONE, "ok"))


def recorded(files: Iterable[Path]) -> dict[str, list[Result]]:
    """By family; where one was begun again, the last time."""
    rows: dict[str, list[Result]] = {}
    for line in [line for path in files if path.exists() for line in path.read_text().splitlines()]:
        result = Result(**{name: value for name, value in json.loads(line).items() if name != "seconds"})
        if result.stage == "inspect":
            rows[result.family] = []
        rows[result.family].append(result)
    return rows


def complete(row: list[Result]) -> bool:
    return row[-1].stage == DONE


def show(rows: Mapping[str, list[Result]]) -> int:
    """Print the table and all sentences; the number of defects."""
    sentences: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for family, row in sorted(rows.items()):
        print(f"{family:24}", "  ".join(f"{r.stage} {r.verdict}" for r in row if r.stage != DONE))
        for result in row:
            if result.sentence:
                said = result.sentence.replace(family, "FAMILY")
                sentences[result.stage, result.verdict, said].append(family)
    for (stage, verdict, said), of in sorted(sentences.items()):
        print(f"\n{stage}, {verdict}: {', '.join(of)}\n  {said}")
    defects = sum(not result.sound for row in rows.values() for result in row)
    print(f"\n{len(rows)} families, {sum(map(complete, rows.values()))} of them in full: {defects} defects")
    return defects


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="NAME")
    parser.add_argument("--shard", default="1/1", metavar="I/N")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.show:
        return 1 if show(recorded(given.show)) else 0
    os.environ["HF_HUB_OFFLINE"] = "1"
    index, count = map(int, given.shard.split("/"))
    rows = recorded([given.results] if given.results else [])
    for family in (given.families or families())[index - 1 :: count]:
        if family in rows and complete(rows[family]):
            continue
        rows[family] = []
        started = time.monotonic()
        for result in apart(family, tuple(given.formats), given.timeout):
            rows[family].append(result)
            seconds = time.monotonic() - started
            print(f"{seconds:6.1f} s  {family} {result.stage} {result.verdict} {result.sentence}", flush=True)
            if given.results:
                with given.results.open("a") as out:
                    out.write(json.dumps({**asdict(result), "seconds": round(seconds, 1)}) + "\n")
    return 1 if show(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
