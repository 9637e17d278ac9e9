"""How fast FP8, NVFP4 and 4-bit groups with zero points are rounded to nearest on a GPU and on all cores, and in how
many bytes the two differ.

    python -m benchmarks.speed.nearest_on_gpu [--weights 1e9] [--shape 4096x4096]

BF16 matrices as in benchmarks.speed.ggml_encode, which does the same for GGUF's types. Every byte of codes and scales
of all of them is compared. GB/s is BF16 read; the GPU's is the median matrix, from input to bytes in device memory.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from statistics import median
from time import perf_counter

import torch

from benchmarks.speed.ggml_encode import matrices, timed
from exporters.numerics.awq_packing import pack_gemm, quantize
from exporters.numerics.fp8 import quantize_blocks, quantize_channels
from exporters.numerics.nvfp4 import quantize_group
from sixfold.artifact.streaming.torch_threads import torch_threads

Work = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def nvfp4(weight: torch.Tensor) -> list[torch.Tensor]:
    (made,), scale = quantize_group([weight], ["a"])
    return [made.packed, made.scale, scale]


def clipped(weight: torch.Tensor) -> Sequence[torch.Tensor]:
    """As AWQ's files hold them, ranges narrowed by the importance of channels."""
    importance = torch.linspace(-3, 3, weight.shape[1]).exp().to(weight.device)
    return pack_gemm(quantize(weight, 128, importance=importance))


FORMATS: dict[str, Work] = {
    "FP8 per channel": lambda weight: quantize_channels(weight, "a"),
    "FP8 per block": lambda weight: quantize_blocks(weight, "a"),
    "NVFP4": nvfp4,
    "AWQ": clipped,
}


def differing(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> int:
    pairs = [
        [of.cpu().contiguous().reshape(-1).view(torch.uint8) for of in pair] for pair in zip(one, other, strict=True)
    ]
    return sum(int((a != b).sum()) for a, b in pairs)


def line(name: str, work: Work, shape: tuple[int, int], weights: float, pool: ThreadPoolExecutor, cores: int) -> str:
    """A row of the table."""
    made, size = matrices(*shape), shape[0] * shape[1]
    work(next(made))
    seconds, on_cores, different, done = [], 0.0, 0, 0
    while done < weights:
        some = list(islice(made, cores))
        found: list[Sequence[torch.Tensor]] = []
        for matrix in some:
            seconds.append(timed(lambda matrix=matrix, found=found: found.append(work(matrix))))
        here = [matrix.cpu() for matrix in some]
        begun = perf_counter()
        expected = list(pool.map(work, here))
        on_cores += perf_counter() - begun
        different += sum(map(differing, found, expected))
        done += len(some) * size
    rate, slow = 2 * size / median(seconds) / 1e9, 2 * done / on_cores / 1e9
    return f"| {name} | {rate:.1f} | {slow:.2f} | {rate / slow:.0f} | {done:.2e} | {different} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=1e9, help="of each format")
    parser.add_argument("--shape", default="4096x4096", help="rows and columns of a matrix")
    arguments = parser.parse_args()
    rows, columns = map(int, arguments.shape.split("x"))
    torch.manual_seed(0)
    cores = os.cpu_count() or 1
    print(f"{torch.cuda.get_device_name()}, {cores} cores\n")
    print("| format | GPU, GB/s | cores, GB/s | times | weights compared | bytes that differ |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    with torch_threads(1), ThreadPoolExecutor(cores) as pool:
        for name, work in FORMATS.items():
            print(line(name, work, (rows, columns), arguments.weights, pool, cores), flush=True)


if __name__ == "__main__":
    main()
