"""How fast FP8 and NVFP4A16 exports are, against `cp -r` plus `sync` of the source and against model_free_ptq.

    python -m benchmarks.speed.throughput [--gigabytes 4.4] [--runs 5] [--peer-runs 1] [--folder FOLDER] [--json FILE]

Makes a synthetic MiniMax-M2 of random normal weights in FOLDER (a temporary one by default; three times its size must
be free), runs everything in turns so that a slow minute of the machine hits all alike, prints a Markdown table and
removes what it wrote. Each export is a process of its own: `start-up` is everything before the first tensor is worked
on (imports, headers, architecture, plan), `seconds` the rest up to data on disk, `CPU` the core-seconds in that time
(on a machine that does something else as well, look there). Peak memory is the largest RssAnon seen.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "minimax-m2-4.6m"
OURS = {"fp8": "FP8_DYNAMIC", "nvfp4": "NVFP4A16"}
_LAYERS, _HIDDEN, _INTERMEDIATE, _VOCABULARY, _HEADS, _KV_HEADS, _HEAD = 4, 3072, 1536, 16384, 48, 8, 128
_EXPERT_BYTES = 3 * _HIDDEN * _INTERMEDIATE * 2


def shapes(experts: int, layers: int = _LAYERS) -> dict[str, tuple[int, ...]]:
    """On-disk names of a MiniMax-M2 with the published model's sizes, fewer layers, experts and tokens."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _HIDDEN)}
    for layer in range(layers):
        prefix, q, kv = f"model.layers.{layer}", _HEADS * _HEAD, _KV_HEADS * _HEAD
        found |= {f"{prefix}.{name}.weight": (_HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{prefix}.self_attn.q_norm.weight": (q,), f"{prefix}.self_attn.k_norm.weight": (kv,)}
        for name, shape in (("q", (q, _HIDDEN)), ("k", (kv, _HIDDEN)), ("v", (kv, _HIDDEN)), ("o", (_HIDDEN, q))):
            found[f"{prefix}.self_attn.{name}_proj.weight"] = shape
        moe = f"{prefix}.block_sparse_moe"
        found |= {f"{moe}.gate.weight": (experts, _HIDDEN), f"{moe}.e_score_correction_bias": (experts,)}
        for expert in range(experts):
            for name in ("w1", "w2", "w3"):
                shape = (_HIDDEN, _INTERMEDIATE) if name == "w2" else (_INTERMEDIATE, _HIDDEN)
                found[f"{moe}.experts.{expert}.{name}.weight"] = shape
    return found | {"model.norm.weight": (_HIDDEN,), "lm_head.weight": (_VOCABULARY, _HIDDEN)}


def make_checkpoint(folder: Path, gigabytes: float) -> dict[str, Any]:
    """In a process of its own: write at least that much BF16 (10^9 bytes) in shards of about 2 GB."""
    import torch
    from safetensors.torch import save_file

    experts = -(-int(gigabytes * 1e9) // (_LAYERS * _EXPERT_BYTES))
    folder.mkdir(parents=True)
    config = json.loads((DEMO / "config.json").read_text()) | {
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_local_experts": experts,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD,
        "rotary_dim": 64,
        "vocab_size": _VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    random = torch.Generator().manual_seed(0)
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    total = number = held = 0

    def flush() -> None:
        nonlocal shard, number, held
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard, held = {}, 0

    for name, shape in shapes(experts).items():
        tensor = torch.randn(shape, generator=random) * 0.02
        shard[name] = tensor if name.endswith("_bias") else tensor.bfloat16()
        held, total = held + shard[name].nbytes, total + shard[name].nbytes
        if held > 2e9:
            flush()
    flush()
    weights = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    return {"bytes": total}


def export(name: str, source: Path, folder: Path) -> dict[str, Any]:
    """In a process of its own: one export by this project."""
    from exporters.export.planning import plan_of
    from exporters.export.run import export as run_export
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import open_source
    from sixfold.recipes.recipe import load_recipes

    opened = open_source(source)
    (recipe,) = load_recipes(name)
    plan = plan_of(opened, recipe, None)
    assert plan is not None
    sizes = {tensor.name: tensor.nbytes for tensor in opened.checkpoint.tensors.values()}
    largest = max((t for t in plan.tensors if t.encoding not in ("copy", "cast")), key=lambda t: t.nbytes)

    @contextmanager
    def silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        yield lambda done: None

    begun, cpu = time.time(), time.process_time()
    workspace = Workspace(folder, opened.checkpoint.name)
    run_export(opened, recipe, workspace, None, threads=os.cpu_count() or 1, progress=silent)
    os.sync()
    done = {"begun": begun, "ended": time.time(), "cpu": time.process_time() - cpu}
    return {**done, "largest_inputs": sum(sizes[name] for name in largest.inputs)}


def peer(name: str, source: Path, folder: Path) -> dict[str, Any]:
    """In a process of its own: the same by llmcompressor's model_free_ptq, with all cores for torch."""
    from llmcompressor import model_free_ptq

    begun, cpu = time.time(), time.process_time()
    ignore = ["lm_head", "re:.*embed_tokens", r"re:.*\.gate$"]
    model_free_ptq(str(source), str(folder), scheme=OURS[name], ignore=ignore, device="cpu")
    os.sync()
    return {"begun": begun, "ended": time.time(), "cpu": time.process_time() - cpu}


def copy(source: Path, folder: Path) -> dict[str, Any]:
    begun, before = time.time(), os.times()
    subprocess.run(["cp", "-r", str(source), str(folder)], check=True)
    subprocess.run(["sync"], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"begun": begun, "ended": time.time(), "cpu": cpu}


def measure(job: str, source: Path, folder: Path) -> dict[str, float]:
    """One run, cleaned up after: seconds, cpu, startup (seconds), peak (RssAnon) and largest_inputs (bytes)."""
    os.sync()
    started = time.time()
    peak = 0
    if job == "cp":
        result = copy(source, folder)
    else:
        result, peak = in_process(job, source, folder)
    shutil.rmtree(folder)
    times = {"seconds": result["ended"] - result["begun"], "cpu": result["cpu"], "startup": result["begun"] - started}
    return {**times, "peak": peak, "largest_inputs": result.get("largest_inputs", 0)}


def in_process(job: str, *arguments: Path | float) -> tuple[dict[str, Any], int]:
    """What a worker process returns, and the largest RssAnon it had."""
    command = [sys.executable, "-m", "benchmarks.speed.throughput", "--worker", job, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watcher = _Watcher(process.pid)
    output, _ = process.communicate()
    peak = watcher.stop()
    if process.returncode:
        raise SystemExit(f"{job} failed; run `{' '.join(command)}` to see why")
    return json.loads(output.strip().splitlines()[-1]), peak


class _Watcher:
    """The largest RssAnon of a process, looked at every few milliseconds."""

    def __init__(self, process: int) -> None:
        self.status = Path(f"/proc/{process}/status")
        self.peak = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.stopped.wait(0.01):
            try:
                lines = self.status.read_text().splitlines()
            except OSError:
                return
            found = next((line for line in lines if line.startswith("RssAnon:")), None)
            if found:
                self.peak = max(self.peak, int(found.split()[1]) * 1024)

    def stop(self) -> int:
        self.stopped.set()
        self.thread.join()
        return self.peak


def benchmark(folder: Path, gigabytes: float, runs: int, peer_runs: int) -> dict[str, Any]:
    """All runs in turns; medians by job ("cp", "fp8", "nvfp4", "peer:fp8", "peer:nvfp4") and the source's bytes."""
    source, target = folder / "source", folder / "target"
    nbytes = in_process("make", source, gigabytes)[0]["bytes"]
    results: dict[str, list[dict[str, float]]] = {}
    try:
        for turn in range(max(runs, peer_runs)):
            jobs = ["cp", *OURS] if turn < runs else []
            jobs += [f"peer:{name}" for name in OURS] if turn < peer_runs else []
            for job in jobs:
                results.setdefault(job, []).append(measure(job, source, target))
    finally:
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
    medians = {job: {key: median(run[key] for run in done) for key in done[0]} for job, done in results.items()}
    return {"bytes": nbytes, "cores": os.cpu_count(), "runs": results, "medians": medians}


def table(report: dict[str, Any]) -> str:
    copied = report["medians"]["cp"]["seconds"]
    titles = {"cp": "`cp -r`, `sync`", **{k: f"sixfold {v}" for k, v in OURS.items()}}
    titles |= {f"peer:{k}": f"model_free_ptq {v}" for k, v in OURS.items()}
    lines = [
        f"{report['bytes'] / 1e9:.2f} GB of BF16, {report['cores']} cores, medians of runs in turns",
        "",
        "| | runs | seconds | relative to cp | MB/s of source | CPU, s | start-up, s | peak RssAnon, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job, result in report["medians"].items():
        cells = [
            titles[job],
            f"{len(report['runs'][job])}",
            f"{result['seconds']:.1f}",
            f"{result['seconds'] / copied:.2f}",
            f"{report['bytes'] / 1e6 / result['seconds']:.0f}",
            f"{result['cpu']:.1f}",
            f"{result['startup']:.1f}",
            f"{result['peak'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, metavar=("JOB", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job, source, target = options.worker
        if job == "make":
            done = make_checkpoint(Path(source), float(target))
        elif job.startswith("peer:"):
            done = peer(job.removeprefix("peer:"), Path(source), Path(target))
        else:
            done = export(job, Path(source), Path(target))
        print(json.dumps(done))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = benchmark(Path(folder), options.gigabytes, options.runs, options.peer_runs)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
