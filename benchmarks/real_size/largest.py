"""What the largest models take, by `sixfold plan` from a config.json alone: a Markdown table for docs/scaling.md.

    python -m benchmarks.real_size.largest CONFIG... [--formats all-formats] [--out FOLDER]

Hours are those of the machine that `sixfold plan MODEL --measure` measured last.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sixfold.sizes import size

HEAD = (
    "model",
    "checkpoint",
    "artifacts",
    "statistics",
    "memory to calibrate",
    "largest layer",
    "calibration",
    "export",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--formats", nargs="+", default=["all-formats"])
    parser.add_argument("--out", default="artifacts")
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|---|{'---:|' * 5}---|---|", flush=True)
    for config in options.configs:
        command = ["-m", "sixfold", "plan", str(config), *options.formats, "--out", options.out, "--json"]
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        print(f"| {' | '.join(row(config.stem, json.loads(done.stdout)))} |", flush=True)


def row(name: str, found: dict[str, Any]) -> list[str]:
    """found: what `sixfold plan --json` prints."""
    sizes = {one["recipe"]: one["bytes"] for one in found["variants"]}
    refused = [one["recipe"] for one in found["variants"] if "error" in one]
    artifacts = size(found["bytes"]) + (f" (not {', '.join(refused)})" if refused else "")
    (memory,) = found["calibration_memory"]
    stages = {stage["stage"].split()[0].strip(","): stage for stage in found["stages"]}
    hours = [
        f"{stages[stage]['seconds'] / 3600:.1f} h, {stages[stage]['bound_by']}" if stage in stages else "-"
        for stage in ("calibration", "export")
    ]
    checkpoint = size(sizes["bf16"]) if "bf16" in sizes else "-"
    sizes_of = (size(found["calibration_bytes"]), size(memory["host"]), size(memory["layer"]))
    return [name, checkpoint, artifacts, *sizes_of, *hours]


if __name__ == "__main__":
    main()
