"""Merging experts instead of dropping them (REAM, arXiv:2604.04356): a trial beside plain pruning, at equal counts.

    python -m benchmarks.quality.merging [MODEL] [--keep 6] [--criteria reap weighted-ean] [--texts FOLDER]
                                         [--groups 2 16] [--samples 256] [--windows 32] [--heldout FOLDER]

The same experts stay in both. Each that would be dropped is merged into one of these, layer after layer, on what the
model merged so far gives (`windows` of the calibration's; every expert runs on TOKENS tokens of theirs):

    grouping    from the most salient kept expert on, each takes the nearest that are left, up to a group's size (the
                paper's is 16 of 128): mean of the cosine of outputs and of the likeness of gates over the tokens
    alignment   neurons in the order of the kept expert's: least sum of distances of normalized activations and weights
    merging     mean of gate, up and down projections, weighted by saliency; router rows of the kept stay

Prints KL per token in nats from the unpruned model, on the held-out texts that belong to the calibration's (--heldout)
and on the built-in ones. Weights are float32, routers are masked. Otherwise than in the paper, gates are those of the
experts that a token goes to, and weights are compared without a reduction by principal components.
"""

import argparse
import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from calibration.calibrate import calibrate
from calibration.texts.tokens import token_batches
from pruning.anatomy import Anatomy, dissect
from pruning.choosing import criteria
from pruning.choosing.make_plan import Request, make_plan
from pruning.proof.masking import masked
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Calibration
from sixfold.recipes.text_source import BUILTIN
from sixfold.runner.experts import experts_run_by, inner_products, outer_products
from sixfold.runner.whole_model import load_model
from sixfold.texts.held_out_text import TEXTS, held_out

ROOT = Path(__file__).parents[2]
TOKENS = 2048
"""That experts are compared on, evenly spaced among those of all windows."""


def merge(
    model: Any,
    anatomy: Anatomy,
    kept: Mapping[int, Sequence[int]],
    saliency: Mapping[int, torch.Tensor],
    windows: torch.Tensor,
    group: int,
) -> None:
    """Changes kept experts in place; the others are to be masked. windows: int64 [number, length]."""
    done: dict[int, Sequence[int]] = {}
    for number, layer in enumerate(anatomy.layers):
        with masked(model, anatomy, done):
            module, inputs, gates = seen(model, windows, number)
        step = max(1, len(inputs) // TOKENS)
        merge_layer(module, inputs[::step], gates[::step], kept[layer], saliency[layer], group)
        done[layer] = kept[layer]


def seen(model: Any, windows: torch.Tensor, number: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The experts module of the MoE layer with that number, what it reads [tokens, hidden], and gates of all experts
    [tokens, experts], zero where a token does not go."""
    rows: list[torch.Tensor] = []
    gates: list[torch.Tensor] = []
    modules: list[Any] = []

    def watched(module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if module not in modules:
            modules.append(module)
        if number < len(modules) and module is modules[number]:
            rows.append(hidden)
            gates.append(torch.zeros(len(hidden), module.num_experts).scatter_(1, index, weights.float()))
        out = torch.zeros_like(hidden)
        for expert in index.unique().tolist():
            token, place = (index == expert).nonzero(as_tuple=True)
            given = outer_products(module, inner_products(module, hidden[token], expert), expert)
            out.index_add_(0, token, given * weights[token, place][:, None])
        return out

    with torch.no_grad(), experts_run_by(model, watched):
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return modules[number], torch.cat(rows), torch.cat(gates)


@torch.no_grad()
def merge_layer(
    module: Any, inputs: torch.Tensor, gates: torch.Tensor, kept: Sequence[int], saliency: torch.Tensor, group: int
) -> None:
    inner = torch.stack([inner_products(module, inputs, e) for e in range(module.num_experts)])
    outputs = torch.stack([outer_products(module, rows, e) for e, rows in enumerate(inner)])
    apart = _distances(outputs, gates)
    # Of every neuron of every expert: what it gives to all tokens, and its row of gate and of up and column of down.
    activations = functional.normalize(inner.mT, dim=-1)
    first = torch.stack(module.gate_up_proj.chunk(2, 1), 2).flatten(2)  # [experts, neurons, 2 hidden]
    neurons = functional.normalize(torch.cat([first, module.down_proj.mT], 2), dim=-1)
    left = set(range(module.num_experts)) - set(kept)
    for center in sorted(kept, key=lambda expert: -float(saliency[expert])):
        taken = sorted(left, key=lambda expert: float(apart[center, expert]))[: group - 1]
        left -= set(taken)
        weights = saliency[[center, *taken]] / saliency[[center, *taken]].sum()
        merged = [w * weights[0].float() for w in (first[center], module.down_proj[center])]
        for expert, weight in zip(taken, weights[1:].float(), strict=True):
            cost = torch.cdist(activations[center], activations[expert]) + torch.cdist(neurons[center], neurons[expert])
            order = torch.from_numpy(assigned(cost.double().numpy()))
            merged[0] = merged[0] + weight * first[expert][order]
            merged[1] = merged[1] + weight * module.down_proj[expert][:, order]
        module.gate_up_proj[center] = torch.cat(merged[0].chunk(2, 1))
        module.down_proj[center] = merged[1]


def _distances(outputs: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """[experts, experts], of outputs [experts, tokens, hidden] and gates [tokens, experts]."""
    rows = functional.normalize(outputs, dim=-1)
    alike = (torch.einsum("ath,bth->ab", rows, rows) / outputs.shape[1] + 1) / 2
    columns = functional.normalize(gates.T, dim=-1)
    apart = torch.cdist(columns, columns)
    return 1 - (alike + 1 - apart / apart.max()) / 2


def assigned(cost: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each row of cost [N, N] a column of its own, with the least sum: shortest augmenting paths (Jonker and
    Volgenant 1987)."""
    size = len(cost)
    owner = np.full(size + 1, -1)
    potential = np.zeros(size)
    price = np.zeros(size + 1)
    for row in range(size):
        owner[size], column = row, size
        best, before = np.full(size, np.inf), np.full(size, size)
        used = np.zeros(size + 1, dtype=bool)
        while owner[column] >= 0:
            used[column] = True
            reduced = cost[owner[column]] - potential[owner[column]] - price[:size]
            closer = ~used[:size] & (reduced < best)
            best[closer], before[closer] = reduced[closer], column
            following = int(np.where(used[:size], np.inf, best).argmin())
            step = best[following]
            potential[owner[used]] += step
            price[used] -= step
            best[~used[:size]] -= step
            column = following
        while column != size:
            owner[column] = owner[before[column]]
            column = int(before[column])
    found = np.empty(size, dtype=np.int64)
    found[owner[:size]] = np.arange(size)
    return found


def divergence(whole: Any, others: Sequence[Any], anatomy: Anatomy, kept: Any, windows: Any) -> list[float]:
    """Of each of the others with its routers masked: mean KL per predicted token from the whole model."""
    totals = [0.0] * len(others)
    with torch.inference_mode():
        for window in windows:
            p = whole(input_ids=window[None], use_cache=False).logits[0, :-1].log_softmax(-1)
            for number, other in enumerate(others):
                with masked(other, anatomy, kept):
                    q = other(input_ids=window[None], use_cache=False).logits[0, :-1].log_softmax(-1)
                totals[number] += float((p.exp() * (p - q)).sum(-1).double().sum())
    return [total / sum(len(window) - 1 for window in windows) for total in totals]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(ROOT / "demo" / "minimax-m2-4.6m"))
    parser.add_argument("--keep", type=int, nargs="+", default=[6])
    parser.add_argument("--criteria", nargs="+", default=["reap", "weighted-ean"])
    parser.add_argument("--groups", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--texts", default=BUILTIN)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--heldout", type=Path, default=None)
    options = parser.parse_args()
    source = open_source(options.model)
    anatomy, tokenizer = dissect(source), load_tokenizer(source.checkpoint.folder)
    profile = Calibration(texts=(options.texts,), samples=options.samples, length=512, moments=False)
    texts = {} if options.heldout is None else {options.heldout.name: held_out(tokenizer, options.heldout).ids}
    texts["built-in"] = held_out(tokenizer, TEXTS).ids
    windows = token_batches(profile, tokenizer).ids[:: max(1, options.samples // options.windows)]
    whole = load_model(source, dtype=torch.float32, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        statistics = calibrate(source, profile, Path(temporary), progress=unseen).statistics
        columns = " | ".join(["pruned", *(f"merged, groups of {group}" for group in options.groups)])
        print(f"| kept | criterion | {' | '.join(f'{name}: {columns}' for name in texts)} |")
        print(f"|---:|---|{'---:|' * len(texts) * (1 + len(options.groups))}", flush=True)
        for keep in options.keep:
            for criterion in options.criteria:
                kept = make_plan(source, anatomy, Request(keep, criterion=criterion), statistics).kept
                saliency = {
                    layer: criteria.saliency(criterion, statistics.experts_of(layer), seed=0, layer=layer)
                    for layer in anatomy.layers
                }
                models = [whole, *(copy.deepcopy(whole) for _ in options.groups)]
                for group, merged in zip(options.groups, models[1:], strict=True):
                    merge(merged, anatomy, kept, saliency, windows, group)
                cells = [
                    " | ".join(f"{kl:.3f}" for kl in divergence(whole, models, anatomy, kept, found))
                    for found in texts.values()
                ]
                print(f"| {keep} of {anatomy.experts} | {criterion} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
