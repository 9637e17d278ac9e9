"""AWQ's search here against llmcompressor's AWQModifier: same model, tokens and grid; time, and what the result costs.

    python -m benchmarks.quality.awq MODEL [--samples 24] [--length 512] [--runs 3] [--json FILE]

In turns, each in a process of its own whose imports do not count. `ours` is the export from finished statistics (the
search and the packing; `with calibration` adds the pass that all formats share); AWQModifier calibrates as it searches,
with the router among the readers of its norm, which its own defaults leave out. Both results are then read by
independent code and run in float32 over the held-out texts: mean KL per token against the source, weights alone.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.turns import ONE, ROOT, one_run, options_of, write_report

GRID = 20


def run_ours(model: str, samples: int, length: int, out: Path) -> dict[str, Any]:
    from calibration.calibrate import calibrate
    from exporters.export.run import export
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import open_source
    from sixfold.progress import unseen
    from sixfold.recipes.recipe import load_recipes

    source = open_source(model)
    (recipe,) = load_recipes("awq", (f"calibration.samples={samples}", f"calibration.length={length}"))
    workspace = Workspace(out, "m")
    begun = time.monotonic()
    statistics = calibrate(source, recipe.calibration, workspace.calibration(recipe.calibration), progress=unseen)
    calibrated = time.monotonic()
    done = export(source, recipe, workspace, statistics.statistics, threads=2, progress=unseen)
    ended = time.monotonic()
    return {"seconds": ended - calibrated, "with calibration": ended - begun, "folder": str(done.folder)}


def run_peer(model: str, samples: int, length: int, out: Path) -> dict[str, Any]:
    from calibration.texts.tokens import token_batches
    from exporters.llmcompressor import EXPORTER, Options
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.model.source import open_source
    from sixfold.recipes.recipe import Calibration, Recipe

    source = open_source(model)
    profile = Calibration(samples=samples, length=length)
    ids = token_batches(profile, load_tokenizer(source.checkpoint.folder)).ids
    modifiers = {
        "AWQModifier": {"n_grid": GRID},
        "QuantizationModifier": {"targets": ["Linear"], "scheme": "W4A16_ASYM"},
    }
    recipe = Recipe(
        name="peer",
        suffix="PEER",
        title="AWQModifier",
        exporter="llmcompressor",
        scheme="W4A16_ASYM",
        calibration=profile,
        options=Options(recipe={"quantization_stage": {"quantization_modifiers": modifiers}}).model_dump(mode="json"),
    )
    folder = out / "peer"
    folder.mkdir(parents=True)
    begun = time.monotonic()
    EXPORTER.run(source, recipe, lambda: ids, folder)
    return {"seconds": time.monotonic() - begun, "folder": str(folder)}


def divergence(folder: str, model: str) -> float:
    command = [sys.executable, "-m", "sixfold", "verify", folder, "--against", model, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    kl: float = found["divergence"]["scores"]["weights"]["mean_kl"]
    return kl


def benchmark(model: str, samples: int, length: int, runs: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "AWQModifier": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            for name, each in found.items():
                out = Path(folder, f"{name}-{number}")
                each.append(one_run("benchmarks.quality.awq", name, model, samples, length, out))
        kl = {name: divergence(each[0]["folder"], model) for name, each in found.items()}
    seconds = {name: median(run["seconds"] for run in each) for name, each in found.items()}
    whole = median(run["with calibration"] for run in found["ours"])
    return {"seconds": seconds, "with calibration": whole, "kl": kl, "runs": found}


def table(report: dict[str, Any]) -> str:
    ours, peer, whole = report["seconds"]["ours"], report["seconds"]["AWQModifier"], report["with calibration"]
    rows = [
        ("ours", f"{ours:.1f}", f"1/{peer / ours:.1f}", f"{report['kl']['ours']:.4f}"),
        ("ours, including the pass that all formats share", f"{whole:.1f}", f"1/{peer / whole:.1f}", ""),
        ("AWQModifier", f"{peer:.1f}", "1", f"{report['kl']['AWQModifier']:.4f}"),
    ]
    head = "| | seconds | relative to AWQModifier | mean KL |\n|---|---:|---:|---:|\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    if sys.argv[1:2] == [ONE]:
        name, model, samples, length, out = sys.argv[2:]
        run = run_ours if name == "ours" else run_peer
        print(json.dumps(run(model, int(samples), int(length), Path(out))))
        return
    options = options_of(__doc__, samples=24, runs=3).parse_args()
    report = benchmark(options.model, options.samples, options.length, options.runs)
    write_report(options.json, report)
    print(table(report))


if __name__ == "__main__":
    main()
