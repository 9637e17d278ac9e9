"""How long a calibration pass takes beside a plain forward and beside the tools that calibrate for one format each.

    python -m benchmarks.speed.calibration MODEL [--samples 64] [--length 512] [--runs 5] [--llama FOLDER] [--json FILE]

Runs are interleaved, so that a slow minute of the machine affects all of them. Each is in its own process, whose
imports and loading do not count:

    pass        the complete pass, layer by layer from the checkpoint, with all statistics (tokens drawn before)
    forward     transformers' own forward over the same batches in BF16, experts by grouped_mm, the model in memory
    oneshot     llmcompressor's NVFP4 oneshot over the same samples (the model in memory)
    imatrix     llama-imatrix over the same number of tokens, from a BF16 GGUF (--llama: the folder of its programs)

Prints a Markdown table of medians: seconds, CPU seconds, tokens per second, and the largest RssAnon seen.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.turns import ONE, one_run, options_of, write_report


@contextmanager
def measured(found: dict[str, float]) -> Iterator[None]:
    """seconds, cpu and peak (bytes of anonymous memory) of what runs inside."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = max(peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")))
            done.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        found |= {"seconds": time.monotonic() - begun, "cpu": time.process_time() - cpu}
        done.set()
        watcher.join()
        found["peak"] = float(peak)


def run_ours(model: str, samples: int, length: int) -> dict[str, float]:
    import torch

    from calibration.forward_pass.batches import batched
    from calibration.forward_pass.layer_pass import run_pass
    from sixfold.progress import unseen

    source, profile, ids = _opened(model, samples, length)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work, measured(found):
        device = torch.device("cpu")
        run_pass(source, batched(ids, 0), profile, Path(work), key="", device=device, progress=unseen)
    return found


def run_forward(model: str, samples: int, length: int) -> dict[str, float]:
    import torch

    from calibration.forward_pass.batches import batched
    from sixfold.runner.whole_model import load_model

    source, _, ids = _opened(model, samples, length)
    whole = load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    whole.set_experts_implementation("grouped_mm")
    found: dict[str, float] = {}
    with torch.inference_mode(), measured(found):
        for batch in batched(ids, 0).ids:
            whole.model(input_ids=batch, use_cache=False)
    return found


def run_oneshot(model: str, samples: int, length: int) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.runner.whole_model import load_model

    source, _, ids = _opened(model, samples, length)
    whole = load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    # It looks at the configuration behind the model's name.
    whole.config._name_or_path = whole.name_or_path = str(source.checkpoint.folder)
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
    ignore = ["re:.*gate$", "lm_head"]
    recipe = QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=ignore)
    found: dict[str, float] = {}
    with measured(found):
        oneshot(
            model=whole,
            recipe=recipe,
            dataset=rows,
            processor=load_tokenizer(source.checkpoint.folder),
            num_calibration_samples=samples,
            max_seq_length=length,
            moe_calibrate_all_experts=False,
        )
    return found


def run_imatrix(model: str, samples: int, length: int, llama: Path) -> dict[str, float]:
    """Its own reported time would leave out loading; this is the process from start to end."""
    import resource

    from transformers import AutoTokenizer

    source, _, ids = _opened(model, samples, length)
    tokenizer = AutoTokenizer.from_pretrained(source.checkpoint.folder)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "texts.txt")
        text.write_text("".join(tokenizer.batch_decode(ids)))
        gguf = _bf16_gguf(model, Path(folder))
        arguments = [llama / "llama-imatrix", "-m", gguf, "-f", text, "-o", Path(folder, "i.gguf"), "-c", str(length)]
        begun = time.monotonic()
        subprocess.run([*map(str, arguments), "--chunks", str(samples), "-t", "2"], check=True, capture_output=True)
        seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": 0.0}


def _bf16_gguf(model: str, folder: Path) -> Path:
    from exporters.export.run import export
    from sixfold.artifact.workspace import Workspace
    from sixfold.progress import unseen
    from sixfold.recipes.recipe import load_recipes

    source, _, _ = _opened(model, 1, 8)
    (recipe,) = load_recipes("gguf-q8_0", ("scheme=BF16", "options.imatrix=false"))
    done = export(source, recipe, Workspace(folder, "m"), None, threads=2, progress=unseen)
    return next(done.folder.glob("*.gguf"))


def _opened(model: str, samples: int, length: int) -> tuple[Any, Any, Any]:
    """(source, profile, ids int64 [samples, length]) of the built-in texts."""
    from calibration.texts.tokens import token_batches
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.model.source import open_source
    from sixfold.recipes.recipe import Calibration

    source = open_source(model)
    profile = Calibration(samples=samples, length=length)
    return source, profile, token_batches(profile, load_tokenizer(source.checkpoint.folder)).ids


def benchmark(model: str, samples: int, length: int, runs: int, llama: Path | None) -> dict[str, Any]:
    names = ["pass", "forward", "oneshot", *(["imatrix"] if llama else [])]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            found[name].append(one_run("benchmarks.speed.calibration", name, model, samples, length, llama or ""))
    medians = {n: {key: median(run[key] for run in each) for key in each[0]} for n, each in found.items()}
    return {"tokens": samples * length, "runs": found, "medians": medians}


def table(report: dict[str, Any]) -> str:
    base = report["medians"]["forward"]["seconds"]
    lines = [
        "| | seconds | relative to the plain forward | CPU s | tokens/s | peak anonymous MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in report["medians"].items():
        peak = f"{found['peak'] / 1e6:.0f}" if found["peak"] else "-"
        seconds = found["seconds"]
        lines.append(
            f"| {name} | {seconds:.1f} | {seconds / base:.2f} | {found['cpu']:.1f}"
            f" | {report['tokens'] / seconds:.0f} | {peak} |"
        )
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == [ONE]:
        name, model, samples, length, llama = sys.argv[2:]
        runs = {"pass": run_ours, "forward": run_forward, "oneshot": run_oneshot}
        if name == "imatrix":
            print(json.dumps(run_imatrix(model, int(samples), int(length), Path(llama))))
        else:
            print(json.dumps(runs[name](model, int(samples), int(length))))
        return
    parser = options_of(__doc__, samples=64, runs=5)
    parser.add_argument("--llama", type=Path)
    options = parser.parse_args()
    report = benchmark(options.model, options.samples, options.length, options.runs, options.llama)
    write_report(options.json, report)
    print(table(report))


if __name__ == "__main__":
    main()
