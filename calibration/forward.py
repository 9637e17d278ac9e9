"""The pass itself: all tokens through the whole model, in order."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from calibration.observe import Observation, observed
from sixfold.errors import SixfoldError
from sixfold.layers import compute_device, fast_products, load_model
from sixfold.progress import Progress
from sixfold.recipe import Calibration
from sixfold.source import Source

BATCH_TOKENS = 4096
"""Tokens that run together (at least one sample). Part of the definition: other batches round differently in BF16."""


def observe_tokens(source: Source, ids: torch.Tensor, profile: Calibration, progress: Progress) -> Observation:
    """Run `ids` (int64 [samples, length], no padding) through the model in BF16 and gather what every Linear reads.

    Raises SixfoldError where the ids are not this model's, or its experts were not run through transformers' interface.
    """
    device = compute_device(sum(tensor.nbytes for tensor in source.checkpoint.tensors.values()))
    model = load_model(source, dtype=torch.bfloat16, device=device)
    rows = model.get_input_embeddings().num_embeddings
    if int(ids.max()) >= rows:
        raise SixfoldError(
            f"the tokenizer of {source.checkpoint.location} makes token {int(ids.max())},"
            f" but the model has {rows} embeddings",
            "use the tokenizer that belongs to the model",
        )
    ranks = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(profile.seed))
    # What stands outside attention and MLP is never quantized, and not every model calls it as a module.
    linears = [linear for linear in source.architecture.linears if linear.role != "other"]
    observation = Observation(linears, ranks=ranks, rows=profile.sample_rows, device=device)
    with (
        torch.inference_mode(),
        fast_products(device),
        observed(model, observation),
        _without_logits(model),
        progress("calibrating", ids.numel(), "tokens") as advance,
    ):
        for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            model(input_ids=batch.to(device), use_cache=False)
            observation.start += batch.numel()
            advance(batch.numel())
    _check_complete(observation, ids.numel(), source)
    return observation


@contextmanager
def _without_logits(model: Any) -> Iterator[None]:
    """What lm_head reads is observed; what it computes, a row of the vocabulary for every token, nobody needs."""
    head = model.get_output_embeddings()

    def empty(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros((*hidden.shape[:-1], 1))

    head.forward = empty
    try:
        yield
    finally:
        del head.forward


def _check_complete(observation: Observation, tokens: int, source: Source) -> None:
    """Every plain site saw each token once; every layer's experts saw some."""
    for site, accumulator in observation.sites.items():
        seen = int(accumulator.count.sum())
        if seen == 0 or (observation.experts[site] is None and seen != tokens):
            raise SixfoldError(
                f"{source.architecture.model_type}: {seen} of {tokens} calibration tokens were seen at {site}:"
                " transformers runs this part of the model in a way that cannot be observed",
                "choose variants that need no calibration",
            )
