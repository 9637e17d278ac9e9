"""Layers per minute of a calibration pass on GPUs, with weights streamed from disk, against the disk's own speed.

    python -m benchmarks.speed.gpu_pass FOLDER [--layers 4] [--experts 256] [--samples 64] [--length 2048] [--gpus 1]

Writes a MiniMax-M2 of the published model's layer sizes and random weights to FOLDER (7.3 GB a layer at 256 experts),
reads its file once past the page cache (the disk), and runs the pass with all statistics, again past the page cache.
What a layer takes cannot be less than the longer of its read and its arithmetic; the table shows all three.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.throughput import shapes
from calibration.forward_pass.batches import batched
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.processes import run_on_devices
from sixfold.checkpoint.storage.safetensors_header import tensor_nbytes, write_header
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Calibration

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "minimax-m2-4.6m"
RATE = 790e12
"""BF16 operations per second of one H200 in large matrix products."""


def make(folder: Path, layers: int, experts: int) -> int:
    """Random weights, drawn on the GPU; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = shapes(experts, layers)
    vocabulary, hidden = wanted["model.embed_tokens.weight"]
    config = json.loads((DEMO / "config.json").read_text()) | {
        "hidden_size": hidden,
        "intermediate_size": wanted["model.layers.0.block_sparse_moe.experts.0.w1.weight"][0],
        "num_hidden_layers": layers,
        "num_local_experts": experts,
        "num_experts_per_tok": 8,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rotary_dim": 64,
        "vocab_size": vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = [(name, "F32" if name.endswith("_bias") else "BF16", shape) for name, shape in wanted.items()]
    random = torch.Generator("cuda").manual_seed(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(write_header(tensors, {}))
        for name, _, shape in tensors:
            values = torch.randn(shape, generator=random, device="cuda") * 0.02
            values = values + 1 if name.endswith("norm.weight") else values
            values = values if name.endswith("_bias") else values.bfloat16()
            file.write(values.cpu().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return sum(tensor_nbytes(dtype, shape) for _, dtype, shape in tensors)


def forget(path: Path) -> None:
    """Out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def disk_rate(path: Path) -> float:
    """Bytes per second of reading the file once, in large pieces, by eight threads as the runner does."""
    from concurrent.futures import ThreadPoolExecutor

    forget(path)
    size, piece = path.stat().st_size, 64 << 20
    descriptor = os.open(path, os.O_RDONLY)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as readers:
        list(readers.map(lambda start: len(os.pread(descriptor, piece, start)), range(0, size, piece)))
    seconds = time.monotonic() - begun
    os.close(descriptor)
    return size / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("layers", 4), ("experts", 256), ("samples", 64), ("length", 2048), ("gpus", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = options.folder / "model"
    if not (model / "model.safetensors").is_file():
        begun = time.monotonic()
        nbytes = make(model, options.layers, options.experts)
        print(f"wrote {nbytes / 1e9:.1f} GB in {time.monotonic() - begun:.0f} s", flush=True)
    path = model / "model.safetensors"
    rate = disk_rate(path)
    print(f"disk: {rate / 1e9:.2f} GB/s", flush=True)
    source = open_source(model)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, source.checkpoint.config["vocab_size"], (options.samples, options.length), generator=random)
    profile = Calibration(samples=options.samples, length=options.length)
    batches = batched(ids, 0)
    linears = {li.name: li for li in source.architecture.linears if li.layer == 0}
    routed = sum(li.in_features * li.out_features for li in linears.values() if li.expert == 0) * 8
    dense = sum(li.in_features * li.out_features for li in linears.values() if li.expert is None)
    arithmetic = 2 * ids.numel() * (routed + dense) / RATE / options.gpus
    layer = sum(t.nbytes for t in source.checkpoint.tensors.values() if t.name.startswith("model.layers.0."))
    rows = []
    for cached in (True, False):
        with tempfile.TemporaryDirectory(dir=options.folder) as work:
            if not cached:
                forget(path)
            begun = time.monotonic()
            shared = {"key": "", "progress": unseen, "ahead": True}
            if options.gpus == 1:
                torch.cuda.reset_peak_memory_stats()
                run_pass(source, batches, profile, Path(work), device=torch.device("cuda"), **shared)
            else:
                run_on_devices(source, batches, profile, Path(work), device="cuda", size=options.gpus, **shared)
            seconds = time.monotonic() - begun
            files = sorted(Path(work).glob("layer-0*.safetensors"))
            ends = [file.stat().st_mtime for file in files]
        steady = (ends[-1] - ends[0]) / (len(ends) - 1)
        rows.append(("page cache" if cached else "disk", seconds, steady))
    print(
        "| weights from | s in total | s per layer | layers/min | reading only, s | arithmetic, s | device peak, GB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    # Of several processes this one does no work on a device.
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if options.gpus == 1 else "-"
    for name, seconds, steady in rows:
        print(
            f"| {name} | {seconds:.1f} | {steady:.2f} | {60 / steady:.1f} | {layer / rate:.2f} | {arithmetic:.2f}"
            f" | {peak} |"
        )


if __name__ == "__main__":
    main()
