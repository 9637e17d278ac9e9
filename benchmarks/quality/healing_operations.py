"""Operations and bytes that refitting the gate and up projections of a MoE layer takes, counted as they run.

    python -m benchmarks.quality.healing_operations [--experts 154] [--tokens 1572864] [--hidden 3072] [--inner 1536]

One expert of that size is refitted to some tokens on the CPU, in BF16 as on a GPU, with every product and every byte
that a kernel reads or writes counted. Both are linear in the tokens, those that the step is found by and those
that it is applied to: three runs say how. Printed is what MiniMax-M2.7's size makes of it (154 experts, 8 of a token,
1,572,864 tokens), and the seconds that these are at speeds that an H200 is safely counted on for.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pruning.healing import gate_up
from pruning.healing.seen import Seen, by_expert

TOP_K = 8
SPEED, SPEED_64, BANDWIDTH = 400e12, 10e12, 4e12
"""Of products, about half of what it does in BF16, in which most of these are; of float64; of memory, of 4.8."""


class Traffic(TorchDispatchMode):
    """Bytes of all that kernels read and write; what they return a view of is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        written = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        storages = {leaf.untyped_storage().data_ptr() for leaf in read}
        in_place = func._schema.is_mutable
        if in_place or not all(leaf.untyped_storage().data_ptr() in storages for leaf in written):
            self.nbytes += sum(leaf.numel() * leaf.itemsize for leaf in [*read, *written])
        return found


def counted(rows: int, found_by: int, hidden: int, inner: int) -> tuple[int, int]:
    """Operations of products and bytes of one expert that `rows` tokens reach, `found_by` of which find the step."""
    from transformers import MiniMaxM2Config
    from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2Experts

    config = MiniMaxM2Config(hidden_size=hidden, intermediate_size=inner, num_local_experts=1)
    draw = torch.Generator().manual_seed(0)
    most, gate_up.TOKENS = gate_up.TOKENS, found_by
    try:
        with torch.no_grad():
            module = MiniMaxM2Experts(config).bfloat16()
            for parameter in module.parameters():
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=draw)
            index, gates = torch.zeros(rows, 1, dtype=torch.int64), torch.ones(rows, 1)
            inputs = torch.randn(rows, hidden, generator=draw).bfloat16()
            seen = Seen(inputs, index, gates, 0.1 * torch.randn(rows, hidden, generator=draw), index[:, 0])
            own = next(by_expert(seen, 1))
            with FlopCounterMode(display=False) as products, Traffic() as traffic:
                gate_up.refit_gate_up(module, 0, own, seen, 1.0, torch.bfloat16)
            return int(products.get_total_flops()), traffic.nbytes
    finally:
        gate_up.TOKENS = most


def foretold(hidden: int, inner: int, few: int) -> Callable[[int, int], tuple[float, float]]:
    """What `counted` says of any numbers of rows, of three runs with `few` of them, twice and three times as many."""
    runs = [(2 * few, few), (3 * few, few), (3 * few, 2 * few)]
    sides = np.array([counted(*run, hidden, inner) for run in runs], dtype=float)
    each = np.linalg.solve(np.array([(1, *run) for run in runs], dtype=float), sides)

    def of(rows: int, found_by: int) -> tuple[float, float]:
        operations, nbytes = np.array([1, rows, found_by]) @ each
        return float(operations), float(nbytes)

    return of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=154)
    parser.add_argument("--tokens", type=int, default=768 * 2048)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--inner", type=int, default=1536)
    options = parser.parse_args()
    rows = options.tokens * TOP_K // options.experts
    one = foretold(options.hidden, options.inner, 64)(rows, min(rows, gate_up.TOKENS))
    products, nbytes = (options.experts * value for value in one)
    inverses = options.experts * options.hidden**3  # of which Cholesky's factor is a third
    size = f"{options.experts} experts of {options.hidden} x {options.inner}"
    print(f"gate and up projections of {size}, {rows} tokens each")
    print(f"  products {products / 1e15:.2f} PFLOP: {products / SPEED:.1f} s at {SPEED / 1e12:.0f} TFLOP/s")
    print(f"  inverses in float64 {inverses / 1e12:.1f} TFLOP: {inverses / SPEED_64:.1f} s at {SPEED_64 / 1e12:.0f}")
    print(f"  read and written {nbytes / 1e12:.1f} TB: {nbytes / BANDWIDTH:.1f} s at {BANDWIDTH / 1e12:.0f} TB/s")
    print(f"  one after the other {products / SPEED + inverses / SPEED_64 + nbytes / BANDWIDTH:.1f} s")


if __name__ == "__main__":
    main()
