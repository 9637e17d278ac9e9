"""How fast GGUF types are encoded on a GPU and on all cores, and in how many blocks the two differ.

    python -m benchmarks.speed.ggml_encode [--weights 1e9] [--types Q4_K,IQ4_XS] [--shape 16384x4096]

For each type, with an importance matrix and without, BF16 matrices of four kinds in turn: normal, with
a spread of its own for each 32 weights, with outliers, and heavy-tailed (Student's t of three degrees). Every block of
all of them is compared with what ggml's library makes of it on the CPU. GB/s is BF16 read; the GPU's is the median
matrix, from input to bytes in device memory, after a first one that compiles the kernels. The limit is the smaller of
two rates: reading and writing every byte once at the speed of a copy, and the arithmetic of the search, at one
operation a cycle and lane.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import torch
from gguf import GGMLQuantizationType

from exporters.ggml.kernels import block_size, quantize, row_bytes, type_named

TYPES = "Q3_K,Q4_K,Q5_K,Q6_K,IQ4_XS,Q8_0,Q2_K,Q4_0,Q4_1,Q5_0,Q5_1,IQ4_NL"
_CLOCK = 1.98e9

_LEVEL = 10
"""Operations from a weight to its level: shift, scale, ggml's rounding (5), two bounds, and to float32."""
_AFFINE, _SYMMETRIC, _CODEBOOK = _LEVEL + 12, _LEVEL + 4, 36
"""Operations for each weight and try: the level, then sums for scale, minimum and error; 15 comparisons and choices."""
_OPERATIONS = {
    "Q2_K": (37 * _AFFINE, 17 * _AFFINE),
    "Q3_K": (19 * _SYMMETRIC, 5 * (_LEVEL + 17)),
    "Q4_K": (38 * _AFFINE, 22 * _AFFINE),
    "Q5_K": (38 * _AFFINE, 17 * _AFFINE),
    "Q6_K": (19 * _SYMMETRIC, 19 * _SYMMETRIC),
    "IQ4_XS": (16 * _CODEBOOK, 16 * _CODEBOOK),
    "IQ4_NL": (16 * _CODEBOOK, 16 * _CODEBOOK),
    "Q4_0": (19 * _SYMMETRIC, _LEVEL),
    "Q5_0": (19 * _SYMMETRIC, _LEVEL),
    "Q4_1": (38 * _AFFINE, _LEVEL),
    "Q5_1": (38 * _AFFINE, _LEVEL),
    "Q8_0": (_LEVEL, _LEVEL),
}
"""Of the search, for each weight: with an importance matrix and without."""


def matrices(*shape: int) -> Iterator[torch.Tensor]:
    """BF16 [rows, columns], without end."""
    heavy = torch.distributions.StudentT(torch.tensor(3.0, device="cuda"))
    while True:
        yield (torch.randn(shape, device="cuda") * 0.02).bfloat16()
        spread = torch.exp(torch.randn(shape[0], shape[1] // 32, device="cuda")).repeat_interleave(32, 1)
        yield (torch.randn(shape, device="cuda") * 0.02 * spread).bfloat16()
        outliers = 1 + 20 * (torch.rand(shape, device="cuda") < 0.002)
        yield (torch.randn(shape, device="cuda") * 0.02 * outliers).bfloat16()
        yield (heavy.sample(shape) * 0.01).bfloat16()


def on_cores(
    pool: ThreadPoolExecutor, weights: torch.Tensor, qtype: GGMLQuantizationType, importance: torch.Tensor | None
) -> torch.Tensor:
    parts = pool.map(lambda rows: quantize(rows, qtype, importance), weights.split(-(-len(weights) // 64)))
    return torch.cat(list(parts))


def copy_rate() -> float:
    """Bytes a second that a copy in device memory reads and writes."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median(timed(lambda: target.copy_(source)) for _ in range(9))


def timed(work: Callable[[], object]) -> float:
    """Seconds on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def line(
    name: str, weighted: bool, shape: tuple[int, int], weights: float, copied: float, pool: ThreadPoolExecutor
) -> str:
    """A row of the table."""
    qtype, made, size = type_named(name), matrices(*shape), shape[0] * shape[1]
    importance = torch.exp(torch.randn(shape[1], device="cuda")) if weighted else None
    given = None if importance is None else importance.cpu()
    quantize(next(made), qtype, importance)
    seconds, on_cpu, different, done = [], 0.0, 0, 0
    memory = 0
    pitch = row_bytes(qtype, block_size(qtype))
    while done < weights:
        matrix = next(made)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found: list[torch.Tensor] = []
        seconds.append(timed(lambda matrix=matrix, found=found: found.append(quantize(matrix, qtype, importance))))
        memory = max(memory, torch.cuda.max_memory_allocated() - before - found[0].numel())
        host = matrix.cpu()
        start = perf_counter()
        expected = on_cores(pool, host, qtype, given)
        on_cpu += perf_counter() - start
        different += int((found[0] != expected.cuda()).view(-1, pitch).any(1).sum())
        done += size
    operations = _OPERATIONS[name][0 if weighted else 1]
    lanes = torch.cuda.get_device_properties(0).multi_processor_count * 128 * _CLOCK
    limit = 2 / max((2 + pitch / block_size(qtype)) / copied, operations / lanes) / 1e9
    rate, cores = 2 * size / median(seconds) / 1e9, 2 * done / on_cpu / 1e9
    return (
        f"| {name} | {'yes' if weighted else 'no'} | {rate:.1f} | {limit:.0f} | {cores:.3f} | {rate / cores:.0f} "
        f"| {memory / size:.0f} | {done:.2e} | {different} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=1e9, help="of each type, compared with the CPU's bytes")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--shape", default="16384x4096", help="rows and columns of a matrix")
    arguments = parser.parse_args()
    rows, columns = map(int, arguments.shape.split("x"))
    torch.manual_seed(0)
    copied, cores = copy_rate(), os.cpu_count() or 1
    print(f"{torch.cuda.get_device_name()}, copies at {copied / 1e12:.2f} TB/s; {cores} cores\n")
    print(
        "| type | imatrix | GPU, GB/s | limit | cores, GB/s | times "
        "| extra bytes a weight | weights | blocks that differ |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with ThreadPoolExecutor(cores) as pool:
        for name in arguments.types.split(","):
            for weighted in (True, False) if name != "Q8_0" else (False,):
                print(line(name, weighted, (rows, columns), arguments.weights, copied, pool), flush=True)


if __name__ == "__main__":
    main()
