"""How long a MoE block takes with every statistic of it gathered, against ways that gather less or do more.

    python -m benchmarks.speed.moe_block [--tokens 8192] [--skew 0] [--seconds 2] [--dense-calls 3]

Needs one Hopper GPU with 80 GB, torch, triton and transformers. The block has MiniMax-M2.7's dimensions with random
normal weights and routing (256 experts, hidden 3072, intermediate 1536, top-8, BF16). Every way gets the same inputs:

- ours: what a calibration pass does with the block: its output, and every statistic of it added to those of the batches
  before, sample rows (128 of each expert and site) included, 64 batches to a layer;
- ours, one batch only: calibration.kernels.triton_experts, the output with the sums of this one batch;
- transformers: its own grouped_mm forward, the output alone;
- dense observer: every expert on every token, outputs kept in float32, and REAP's saliency from their norms, as the
  reference implementation of REAP observes (statistics alone, no output);
- limit: the multiplications alone, at the rate that an 8192 x 8192 x 8192 product reaches on the same card.

`ms` is the median over a third of a second after a pause, `sustained` the median over the last quarter of `--seconds`
of calls back to back, when the card's power limit has lowered its clock. `extra` is the peak of allocated memory over
inputs and weights. Prints a Markdown table, and how far our saliency is from the dense observer's.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from calibration.forward_pass.accumulate import Accumulator
from calibration.forward_pass.expert_outputs import ExpertAccumulator
from calibration.forward_pass.observation import ExpertRecord
from calibration.kernels.triton_experts import routed_experts

EXPERTS, HIDDEN, INTERMEDIATE, TOP_K = 256, 3072, 1536, 8
BATCHES, SAMPLE_ROWS = 64, 128


def inputs(tokens: int, skew: float = 0.0) -> tuple[torch.Tensor, ...]:
    """hidden, top-k index, gates (sigmoid scores made to add up to one), gate_up and down.

    skew: standard deviation of a bias per expert on the scores, whose own is one.
    """
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
        return values.normal_(0, scale, generator=generator)

    hidden = normal(tokens, HIDDEN)
    gates, index = (normal(tokens, EXPERTS).float() + normal(EXPERTS, scale=skew)).sigmoid().topk(TOP_K)
    gate_up = normal(EXPERTS, 2 * INTERMEDIATE, HIDDEN, scale=HIDDEN**-0.5)
    down = normal(EXPERTS, HIDDEN, INTERMEDIATE, scale=INTERMEDIATE**-0.5)
    return hidden, index, gates / gates.sum(1, keepdim=True), gate_up, down


class Pass:
    """The statistics of a layer, restarted every BATCHES calls."""

    def __init__(self, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ranks = torch.randperm(BATCHES * tokens, generator=generator).cuda()
        self.batches = 0

    def __call__(self, hidden: torch.Tensor, index: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if self.batches % BATCHES == 0:
            device = hidden.device
            sites = {
                name: Accumulator(EXPERTS, width, SAMPLE_ROWS, device)
                for name, width in (("up", HIDDEN), ("down", INTERMEDIATE))
            }
            moe = {"experts": ExpertAccumulator(EXPERTS, device)}
            self.observation: Any = SimpleNamespace(sites=sites, moe=moe, ranks=self.ranks, counted=None)
        self.observation.start = self.batches % BATCHES * len(hidden)
        self.batches += 1
        output, found = routed_experts(hidden, index, *rest)
        ExpertRecord(self.observation, "experts", "up", "down").measured(hidden, index, found)
        return output


def transformers_forward(hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor, *weights: torch.Tensor) -> Any:
    from transformers.integrations.moe import grouped_mm_experts_forward

    def apply_gate(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    experts = SimpleNamespace(
        gate_up_proj=weights[0],
        down_proj=weights[1],
        num_experts=EXPERTS,
        has_gate=True,
        has_bias=False,
        is_transposed=False,
        _apply_gate=apply_gate,
    )
    return grouped_mm_experts_forward(experts, hidden, index, gates)


def dense_saliency(
    hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """REAP's saliency [experts]: the mean over an expert's tokens of gate x norm of its output."""
    outputs = torch.empty(EXPERTS, len(hidden), HIDDEN, dtype=torch.float32, device=hidden.device)
    for expert in range(EXPERTS):
        gate, up = functional.linear(hidden, gate_up[expert]).chunk(2, dim=-1)
        outputs[expert] = functional.linear(functional.silu(gate) * up, down[expert])
    norms = outputs.norm(dim=-1)
    applied = torch.zeros(len(hidden), EXPERTS, device=hidden.device).scatter_(1, index, gates)
    return (applied.T * norms).sum(1) / (applied.T > 0).sum(1)


def milliseconds(call: Callable[[], Any], seconds: float) -> list[float]:
    """Of every call in that time, back to back."""
    marks = [torch.cuda.Event(enable_timing=True)]
    marks[0].record()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
        if len(marks) % 8 == 0:
            marks[-8].synchronize()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def measured(call: Callable[[], Any], seconds: float) -> tuple[float, float, str]:
    """Milliseconds after a pause, milliseconds sustained, and gigabytes beside what is already allocated: at the peak,
    and held between calls."""
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    held = (torch.cuda.memory_allocated() - before) / 1e9
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    extra = (torch.cuda.max_memory_allocated() - before) / 1e9
    time.sleep(1)
    short = median(milliseconds(call, 1 / 3))
    long = milliseconds(call, seconds)
    return (
        short,
        median(long[-max(len(long) // 4, 1) :]),
        f"{extra:.2f} GB" + (f", {held:.2f} held" if held > 0.005 else ""),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--skew", type=float, default=0.0, help="standard deviation of a bias per expert")
    parser.add_argument("--seconds", type=float, default=2.0, help="of calls back to back, per way")
    parser.add_argument("--dense-calls", type=int, default=3, help="0 leaves the dense observer out")
    options = parser.parse_args()
    given = inputs(options.tokens, options.skew)
    rows: list[tuple[str, str, float, float, str]] = []

    with torch.no_grad():
        layer = Pass(options.tokens)
        rows.append(("ours", "output and all", *measured(lambda: layer(*given), options.seconds)))
        rows.append(("ours, one batch only", "its sums", *measured(lambda: routed_experts(*given), options.seconds)))
        half = (given[0], given[1], given[2].bfloat16(), *given[3:])
        rows.append(("transformers", "output", *measured(lambda: transformers_forward(*half), options.seconds)))
        square = torch.randn(8192, 8192, device="cuda").bfloat16()
        short, long, _ = measured(lambda: square @ square, options.seconds)
        operations = 6 * options.tokens * TOP_K * HIDDEN * INTERMEDIATE
        share = operations / (2 * 8192**3)
        rate = f"at {2 * 8192**3 / short / 1e9:.0f} and {2 * 8192**3 / long / 1e9:.0f} TFLOP/s"
        rows.append((f"limit: {operations / 1e12:.2f} TFLOP", rate, short * share, long * share, "-"))
        if options.dense_calls:
            time_of = measured(lambda: dense_saliency(*given), options.dense_calls * 0.2)
            rows.insert(3, ("dense observer", "saliency", *time_of))
            found = routed_experts(*given)[1]
            deviation = found.saliency_sum / found.counts / dense_saliency(*given) - 1
            print(f"Saliency deviates from the dense observer's by at most {float(deviation.abs().max()):.1e}.\n")

    counts = routed_experts(*given)[1].counts
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.tokens} tokens,")
    print(f"{int(counts.min())} to {int(counts.max())} of them per expert\n")
    print("| way | computes | ms | ms sustained | tokens/s | extra memory |\n|---|---|---|---|---|---|")
    for way, gives, short, long, memory in rows:
        speed = 1e3 * options.tokens / long
        print(f"| {way} | {gives} | {short:.2f} | {long:.2f} | {speed:,.0f} | {memory} |")


if __name__ == "__main__":
    main()
