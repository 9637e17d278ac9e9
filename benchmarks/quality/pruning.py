"""What each criterion costs: KL from the unpruned model on held-out text, by masking the pruned experts.

    python -m benchmarks.quality.pruning [MODEL] [--ratios 0.25 0.4] [--seeds 5] [--texts FOLDER] [--heldout FOLDER]
                                         [--samples 104] [--by-domain] [--artifacts FOLDER]

Calibrates MODEL (the bundled one by default) on `samples` windows of 512 tokens, chooses experts by every criterion,
and runs the whole model in float32 with the others masked, which is what a pruned checkpoint computes. Prints a
Markdown table: KL per token in nats over all held-out texts, and for `random` the range over the seeds.
With --by-domain, what the default criterion costs on each domain of the held-out texts (each file, for texts of your
own).
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from calibration.calibrate import calibrate
from calibration.texts.corpus import BUILTIN
from pruning.anatomy import Anatomy, dissect
from pruning.choosing.counts import kept_for_ratio
from pruning.choosing.criteria import RANDOM, names
from pruning.choosing.make_plan import Request, make_plan
from pruning.choosing.plan_file import PruningPlan
from pruning.proof.masking import masked
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.whole_model import load_model
from sixfold.texts.held_out_text import TEXTS, held_out

ROOT = Path(__file__).parents[2]


def divergences(
    model: Any, anatomy: Anatomy, plans: Sequence[PruningPlan], windows: Sequence[torch.Tensor]
) -> list[float]:
    """Of each plan, the mean KL per position of the masked model from the whole one, in nats; every position counts."""
    totals = [0.0] * len(plans)
    with torch.inference_mode():
        for window in windows:
            whole = model(input_ids=window[None], use_cache=False).logits[0].log_softmax(-1)
            for number, plan in enumerate(plans):
                with masked(model, anatomy, plan.kept):
                    pruned = model(input_ids=window[None], use_cache=False).logits[0].log_softmax(-1)
                totals[number] += float((whole.exp() * (whole - pruned)).sum(-1).double().sum())
    return [total / sum(map(len, windows)) for total in totals]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(ROOT / "demo" / "minimax-m2-4.6m"))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--texts", default=BUILTIN)
    parser.add_argument("--heldout", type=Path, default=TEXTS)
    parser.add_argument("--samples", type=int, default=104)
    parser.add_argument("--by-domain", action="store_true")
    parser.add_argument("--artifacts", type=Path, default=None)
    options = parser.parse_args()

    source = open_source(options.model)
    anatomy = dissect(source)
    profile = Calibration(texts=(options.texts,), samples=options.samples, length=512)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.artifacts or Path(temporary)) / source.checkpoint.name
        statistics = calibrate(source, profile, folder, progress=lambda *_: nullcontext(lambda _: None)).statistics
        texts = held_out(load_tokenizer(source.checkpoint.folder), options.heldout).by_domain
        model = load_model(source, dtype=torch.float32, device=torch.device("cpu"))

        def costs(requests: Sequence[Request], windows: Sequence[torch.Tensor]) -> list[float]:
            plans = [make_plan(source, anatomy, request, statistics) for request in requests]
            return divergences(model, anatomy, plans, windows)

        print(f"{source.checkpoint.name}, {options.samples * 512} tokens of calibration\n")
        by_ratio = {ratio: kept_for_ratio(anatomy, ratio) for ratio in options.ratios}
        if options.by_domain:
            _print_domains(by_ratio, texts, costs)
        else:
            _print_criteria(by_ratio, [window for found in texts.values() for window in found], costs, options.seeds)


Costs = Callable[[Sequence[Request], Sequence[torch.Tensor]], list[float]]


def _print_criteria(kept: Mapping[float, int], windows: Sequence[torch.Tensor], costs: Costs, seeds: int) -> None:
    asked = [
        Request(kept[ratio], ratio, criterion, seed)
        for criterion in names()
        for seed in range(seeds if criterion == RANDOM else 1)
        for ratio in kept
    ]
    found = dict(zip(asked, costs(asked, windows), strict=True))
    _print_head("criterion", kept, windows)
    for criterion in names():
        cells = []
        for ratio in kept:
            values = [kl for request, kl in found.items() if (request.criterion, request.ratio) == (criterion, ratio)]
            cells.append(f"{min(values):.3f}" if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}")
        print(f"| {criterion} | " + " | ".join(cells) + " |")


def _print_domains(kept: Mapping[float, int], texts: Mapping[str, Sequence[torch.Tensor]], costs: Costs) -> None:
    _print_head("held-out texts", kept, [window for found in texts.values() for window in found])
    for domain, windows in texts.items():
        found = costs([Request(number, ratio) for ratio, number in kept.items()], windows)
        print(f"| {domain} | " + " | ".join(f"{kl:.3f}" for kl in found) + " |")


def _print_head(first: str, kept: Mapping[float, int], windows: Sequence[torch.Tensor]) -> None:
    print(f"KL on {sum(map(len, windows))} held-out tokens\n")
    print(f"| {first} | " + " | ".join(f"{100 * ratio:g} %, {number} stay" for ratio, number in kept.items()) + " |")
    print("|---|" + "---:|" * len(kept))


if __name__ == "__main__":
    main()
