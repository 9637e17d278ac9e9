"""The whole job at a model's real size: seconds a layer and peaks of memory by stage, at several depths, and what
`sixfold plan` foretold.

    python -m benchmarks.real_size docs/configs/minimax-m2.7.json [--experts 154] [--layers 4 8 16 32] [--keep 4]
        [--formats all-formats | none] [--set KEY=VALUE] [--device cpu] [--disk] [--folder FOLDER] [--json FILE]

The checkpoint exists only while it is read (drawn_checkpoint.py). Of what is exported nothing is kept but hashes and
sizes (sink.py); statistics are, since rounding reads them: --folder needs room for those of the deepest run. Each depth
is a process of its own. Depths up to --keep keep their artifacts, which are verified; a deeper run has the same first
layers, and its files are known by their hashes alone. `--formats none` calibrates, and lets go of the statistics.
The last table is of the whole job, a layer's seconds beside what the disk and what arithmetic alone would take. --disk:
each depth once more with the checkpoint in files, which nothing finds in the page cache when a stage begins.

An interrupt (`timeout -s INT 500 python -m ...`) ends with the tables of the depths that were done by then.
This machine is measured first, as by `sixfold plan --measure`, if it was not yet, and makes a layer of 16 experts, so
that no depth has to compile kernels. Reading is foretold by the speed at
which weights are drawn, which here takes the place of the disk's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.real_size.report import report
from benchmarks.real_size.whole_job import whole_job
from sixfold.runner.available_memory import use_memory_whole
from sixfold.runner.machine_speed import measured_speed

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "demo" / "minimax-m2-4.6m-REAP-6"
_WARMING = 16
"""Experts of a layer that a machine which was never measured makes first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--experts", type=int)
    parser.add_argument("--formats", nargs="+", default=["all-formats"])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--keep", type=int, default=4, help="depths up to this one are verified")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--folder", type=Path, help="a temporary one by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--depth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_memory_whole()
    formats = () if options.formats == ["none"] else tuple(options.formats)
    if options.depth is not None:
        from benchmarks.real_size.stages import Job, run

        keep = bool(formats) and options.depth <= options.keep
        settings = tuple(options.settings)
        shape = (options.config, options.folder, TEXTS, options.depth, options.experts)
        job = Job(*shape, formats, settings, keep, options.disk)
        print(json.dumps(run(job)))
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if measured_speed() is None:
            _process(options, ["-m", "sixfold", "plan", str(options.config), "bf16", "--measure", "--out", folder])
            few = argparse.Namespace(**{**vars(options), "experts": _WARMING, "keep": 1})
            _depth(few, 1, Path(folder, "warming"), on_disk=False)  # which compiles what a first run compiles
        found: dict[str, list[dict[str, Any]]] = {}
        with suppress(KeyboardInterrupt):
            for layers in sorted(options.layers):
                for where in ("page cache", "disk") if options.disk else ("page cache",):
                    done = _depth(options, layers, Path(folder, str(layers)), on_disk=where == "disk")
                    found.setdefault(where, []).append(done)
                    print(f"{layers} layers done from the {where}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    whole = json.loads(options.config.read_text())
    count = whole.get("text_config", whole)["num_hidden_layers"]
    for where, runs in found.items():
        print(f"Weights from the {where}:\n\n{report(runs, count)}\n")
    print("\n".join(whole_job(found, count)))


def _depth(options: argparse.Namespace, layers: int, folder: Path, *, on_disk: bool) -> dict[str, Any]:
    """What came of one depth, by a process of its own."""
    command = ["-m", "benchmarks.real_size", str(options.config), "--depth", str(layers), "--folder", str(folder)]
    command += ["--formats", *options.formats, "--keep", str(options.keep)]
    command += [part for setting in options.settings for part in ("--set", setting)]
    command += ["--experts", str(options.experts)] if options.experts else []
    command += ["--disk"] if on_disk else []
    return json.loads(_process(options, command).strip().splitlines()[-1])


def _process(options: argparse.Namespace, command: Sequence[str]) -> str:
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {})
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(command)} failed")
    return done.stdout


if __name__ == "__main__":
    main()
