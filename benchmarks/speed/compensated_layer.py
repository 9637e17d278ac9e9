"""What compensated rounding of one layer of MiniMax-M2.7's size takes on a GPU, in every format.

    python -m benchmarks.speed.compensated_layer [--experts 154] [--hidden 3072] [--intermediate 1536] [--tokens 512]

Experts' weights are normal BF16 matrices; every expert has seen --tokens tokens, whose channels differ in size and are
related. Timed are the second moments of what both projections read, their factors (one for all formats but nvfp4-gb10,
whose inputs are rounded and which makes its own), the weights' way to the device, and then each format: rounding,
packing and the way back, in batches as large as an export's. Prints a Markdown table, with what each leaves of the
outputs' error that the same format leaves where channels count as unrelated. An export moves the weights to the device
for each format.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.compensated import quantize_compensated
from exporters.numerics.awq_packing import pack_gemm
from exporters.numerics.compensated import fp8_channels, int4_groups, nvfp4_groups
from exporters.rounding.compensate import compensate
from exporters.rounding.device import to_host
from exporters.rounding.factor import Factor, factor, side_by_side, unrelated
from exporters.rounding.format import Format
from exporters.rounding.fp8 import Fp8
from exporters.rounding.int4 import Integers, Stored
from exporters.rounding.kquants import FORMS
from exporters.rounding.nvfp4 import Nvfp4
from exporters.rounding.rounded_inputs import for_rounded_inputs
from sixfold.statistics.input_moments import Moments

Made = TypeVar("Made")
GGUF = (Type.Q3_K, Type.IQ4_XS, Type.Q4_K, Type.Q6_K)
SAMPLE = 128


@dataclass(frozen=True)
class Site:
    """What one projection of all experts reads, and the weights that read it: a group for each expert."""

    weights: list[list[torch.Tensor]]
    rows: torch.Tensor
    moments: list[torch.Tensor]


def site(experts: int, channels: int, outputs: Sequence[int], tokens: int, device: torch.device) -> Site:
    """rows: BF16 [experts, tokens, channels], mixed from half as many sources, so that channels are related."""
    weights = [
        [(torch.randn(rows, channels, device=device) * 0.02).bfloat16().cpu() for rows in outputs]
        for _ in range(experts)
    ]
    mixing = torch.randn(channels // 2, channels, device=device) * torch.logspace(-1, 0.5, channels, device=device)
    rows = (torch.randn(experts, tokens, channels // 2, device=device) @ mixing).bfloat16()
    return Site(weights, rows, [])


def moved(found: Site, device: torch.device) -> Site:
    return Site([[weight.to(device) for weight in group] for group in found.weights], found.rows, [])


def summed(found: Site) -> Site:
    """With the mean second moments of each expert's rows, float32 [channels, channels]."""
    moments = [(rows.float().mT @ rows.float()) / len(rows) for rows in found.rows]
    return Site(found.weights, found.rows, moments)


def timed(work: Callable[[], Made], device: torch.device) -> tuple[Made, float]:
    """What it gives, and the seconds it took."""
    _synchronize(device)
    start = perf_counter()
    made = work()
    _synchronize(device)
    return made, perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_batches(factors: Sequence[Factor], batch: int, make: Callable[[list[int], Factor], object]) -> None:
    for start in range(0, len(factors), batch):
        places = list(range(start, min(start + batch, len(factors))))
        make(places, side_by_side([factors[n] for n in places]))


def formats(found: Site) -> dict[str, Callable[[list[int], Factor], object]]:
    """By name, what rounds the weights of some experts."""

    def flat(places: list[int]) -> list[torch.Tensor]:
        return [torch.cat(found.weights[n]) for n in places]

    def names(places: list[int]) -> list[str]:
        return [f"expert {n}" for n in places]

    def nvfp4(places: list[int], known: Factor) -> object:
        groups = [found.weights[n] for n in places]
        return nvfp4_groups(groups, [names([n]) * len(found.weights[n]) for n in places], known)

    def gb10(places: list[int], _: Factor) -> object:
        scale = (448 * 6 / found.rows.abs().max()).float().reshape(1)
        made = [
            for_rounded_inputs(Moments(found.moments[n]), found.rows[n, :SAMPLE], scale, found.weights[n])
            for n in places
        ]
        groups = [found.weights[n] for n in places]
        known = side_by_side([each for each, _ in made])
        targets = [target for _, target in made]
        return nvfp4_groups(groups, [names([n]) * len(found.weights[n]) for n in places], known, targets)

    def fp8(places: list[int], known: Factor) -> object:
        return [to_host(scale) for _, scale in fp8_channels(flat(places), names(places), known)]

    def awq(places: list[int], known: Factor) -> object:
        made = int4_groups(flat(places), names(places), 128, known)
        return [to_host(part) for quantized in made for part in pack_gemm(quantized)]

    return {
        "fp8": fp8,
        "nvfp4": nvfp4,
        "nvfp4-gb10": gb10,
        "awq": awq,
        **{
            f"gguf {kind.name}": lambda places, known, kind=kind: quantize_compensated(
                flat(places), kind, known, names(places)
            )
            for kind in GGUF
        },
    }


def left_of_error(found: Site, name: str, known: Factor) -> float:
    """The outputs' error over what it is without the inputs' moments, of one expert."""
    device = known.upper.device
    weight = torch.cat(found.weights[0]).to(device, torch.float32)[None]
    forms: dict[str, Format] = {
        "fp8": Fp8.of(torch.bfloat16, weight.shape[-1]),
        "nvfp4": Nvfp4((448 * 6 / weight.abs().max()).reshape(1)),
        "awq": Integers(15, Stored((torch.float16,)), 128),
    }
    form = FORMS[name.removeprefix("gguf ")] if name.startswith("gguf") else forms[name]
    errors = []
    for by in (known, unrelated(weight.shape[-1], device)):
        off = compensate(weight, by, form).values - weight
        errors.append(float(((off @ known.moments) * off).sum()))
    return errors[0] / errors[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=154)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--intermediate", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=154, help="experts side by side; an H200 holds so many")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    sizes = ((options.hidden, [options.intermediate] * 2), (options.intermediate, [options.hidden]))
    sites = [site(options.experts, channels, outputs, options.tokens, device) for channels, outputs in sizes]
    warm = summed(site(1, 256, [64], 256, device))
    for make in formats(warm).values():  # compiles the kernels
        make([0], factor(warm.moments[0][None]))
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else device.type}, {options.experts} experts\n")
    print("| | seconds | error left |\n|---|---:|---:|")
    spent = 0.0

    def line(name: str, seconds: float, left: str = "") -> None:
        nonlocal spent
        spent += seconds
        print(f"| {name} | {seconds:.2f} | {left} |", flush=True)

    sites, seconds = timed(lambda: [moved(each, device) for each in sites], device)
    line("weights to the device", seconds)
    sites, seconds = timed(lambda: [summed(each) for each in sites], device)
    line("second moments", seconds)
    factors, seconds = timed(lambda: [[factor(mean[None]) for mean in each.moments] for each in sites], device)
    line("factors", seconds)
    every = [formats(each) for each in sites]
    for name in every[0]:
        seconds = 0.0
        for makers, of in zip(every, factors, strict=True):
            seconds += timed(partial(in_batches, of, options.batch, makers[name]), device)[1]
        line(name, seconds, "" if name == "nvfp4-gb10" else f"{left_of_error(sites[0], name, factors[0][0]):.2f}")
    print(f"| together | {spent:.2f} | |")
    if device.type == "cuda":
        print(f"\nAt most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of device memory.")


if __name__ == "__main__":
    main()
