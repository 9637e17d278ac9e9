"""What each criterion costs: KL from the unpruned model on held-out text, by masking the pruned experts.

    python -m benchmarks.pruning [MODEL] [--ratios 0.25 0.4] [--seeds 5] [--texts FOLDER] [--heldout FOLDER]
                                 [--samples 104] [--artifacts FOLDER]

Calibrates MODEL (the bundled one by default) on `samples` windows of 512 tokens, chooses experts by every criterion,
and runs the whole model in float32 with the others masked, which is what a pruned checkpoint computes. Prints a
Markdown table: KL per token in nats over all held-out texts, and for `random` the least and the most of the seeds.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from calibration.calibrate import calibrate
from calibration.corpus import BUILTIN, TEXTS
from calibration.heldout import heldout_windows
from calibration.tokens import load_tokenizer
from pruning.anatomy import Anatomy, dissect
from pruning.counts import kept_for_ratio
from pruning.criteria import CRITERIA, RANDOM
from pruning.make_plan import Request, make_plan
from pruning.masking import masked
from pruning.plan_file import PruningPlan
from sixfold.architecture import derive_architecture
from sixfold.checkpoint import open_checkpoint
from sixfold.recipe import Calibration
from sixfold.source import Source
from sixfold.whole_model import load_model

ROOT = Path(__file__).parents[1]


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
    parser.add_argument("--heldout", type=Path, default=TEXTS / "heldout")
    parser.add_argument("--samples", type=int, default=104)
    parser.add_argument("--artifacts", type=Path, default=None)
    options = parser.parse_args()

    checkpoint = open_checkpoint(options.model)
    source = Source(checkpoint, derive_architecture(checkpoint))
    anatomy = dissect(source)
    profile = Calibration(texts=(options.texts,), samples=options.samples, length=512)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.artifacts or Path(temporary)) / checkpoint.name
        statistics = calibrate(source, profile, folder, progress=lambda *_: nullcontext(lambda _: None)).statistics
        texts = heldout_windows(load_tokenizer(checkpoint.folder), options.heldout)
        windows = [window for found in texts.values() for window in found]
        model = load_model(source, dtype=torch.float32, device=torch.device("cpu"))

        asked = [
            Request(kept_for_ratio(anatomy, ratio), ratio, criterion, seed)
            for criterion in (*CRITERIA, RANDOM)
            for seed in range(options.seeds if criterion == RANDOM else 1)
            for ratio in options.ratios
        ]
        plans = [make_plan(source, anatomy, request, statistics) for request in asked]
        costs = dict(zip(asked, divergences(model, anatomy, plans, windows), strict=True))

    print(f"{checkpoint.name}, {sum(map(len, windows))} held-out tokens, {options.samples * 512} of calibration\n")
    print("| criterion | " + " | ".join(f"{100 * ratio:g} %" for ratio in options.ratios) + " |")
    print("|---|" + "---:|" * len(options.ratios))
    for criterion in (*CRITERIA, RANDOM):
        cells = []
        for ratio in options.ratios:
            found = [kl for request, kl in costs.items() if (request.criterion, request.ratio) == (criterion, ratio)]
            cells.append(f"{min(found):.3f}" if len(found) == 1 else f"{min(found):.3f} to {max(found):.3f}")
        print(f"| {criterion} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
