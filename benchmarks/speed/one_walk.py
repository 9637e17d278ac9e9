"""What one walk for several formats saves: FP8, NVFP4 and NVFP4-GB10 alone and together, rounded to nearest.

    python -m benchmarks.speed.one_walk [--gigabytes 4.4] [--runs 3] [--threads N] [--folder FOLDER] [--json FILE]

On the synthetic MiniMax-M2 of benchmarks/speed/throughput.py (twice its size must be free), each run in a process of
its own and in turns; start-up is not counted. Input scales of NVFP4-GB10 are of made-up maxima, in place of a
calibration. Prints seconds, CPU seconds, what was read of the source, and the time together as a multiple of the
slowest alone.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.throughput import in_process as throughput_process
from benchmarks.speed.turns import ONE, one_run, write_report

FORMATS = ("fp8", "nvfp4", "nvfp4-gb10")


def run(names: list[str], source: Path, out: Path, threads: int) -> dict[str, Any]:
    """In a process of its own."""
    from calibration.calibrate import sites_of
    from exporters.export.run import Exported, Wanted, export_all
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import open_source
    from sixfold.progress import unseen
    from sixfold.recipes.recipe import load_recipes
    from tests.exporters.exported import calibration_of, largest_of

    opened = open_source(source)
    statistics = calibration_of(out / "statistics", sites_of(opened.architecture.linears), largest_of(opened, 3.0))
    wanted = [Wanted(recipe, statistics) for name in names for recipe in load_recipes(name, ["rounding=nearest"])]
    os.sync()
    begun, cpu = time.monotonic(), time.process_time()
    made = export_all(opened, wanted, Workspace(out, "m"), threads=threads, progress=unseen)
    os.sync()
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    for result in made:
        if isinstance(result, Exception):
            raise result
    assert isinstance(made[0], Exported)
    walk = json.loads((made[0].folder / "run.json").read_text())["walk"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "read": walk["read_bytes"], "peak": peak}


def benchmark(folder: Path, gigabytes: float, runs: int, threads: int) -> dict[str, Any]:
    source = folder / "source"
    nbytes = throughput_process("make", source, gigabytes)[0]["bytes"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*FORMATS, "+".join(FORMATS))}
    for _ in range(runs):
        for names, each in found.items():
            out = folder / "out"
            out.mkdir()
            each.append(one_run("benchmarks.speed.one_walk", names, source, out, threads))
            shutil.rmtree(out)
    medians = {names: {key: median(run[key] for run in each) for key in each[0]} for names, each in found.items()}
    return {"bytes": nbytes, "threads": threads, "runs": found, "medians": medians}


def table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['bytes'] / 1e9:.2f} GB of BF16, {report['threads']} threads",
        "",
        "| | seconds | CPU seconds | read, GB | peak RSS, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for names, of in report["medians"].items():
        label = names.replace("+", ", ")
        cells = [f"{of['seconds']:.1f}", f"{of['cpu']:.1f}", f"{of['read'] / 1e9:.2f}", f"{of['peak'] / 1e6:.0f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for key, unit in (("seconds", "time"), ("cpu", "CPU time")):
        alone = max(report["medians"][name][key] for name in FORMATS)
        together = report["medians"]["+".join(FORMATS)][key]
        lines.append(f"\nTogether in {together / alone:.2f} times the {unit} of the slowest alone.")
    return "\n".join(lines)


def main() -> None:

    if sys.argv[1:2] == [ONE]:
        names, source, out, threads = sys.argv[2:]
        print(json.dumps(run(names.split("+"), Path(source), Path(out), int(threads))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = benchmark(Path(folder), options.gigabytes, options.runs, options.threads)
    print(table(report))
    write_report(options.json, report)


if __name__ == "__main__":
    main()
