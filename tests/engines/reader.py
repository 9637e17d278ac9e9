"""Logits as verification computes them: an artifact's weights by our readers, layer by layer in float32."""

from pathlib import Path

import torch

from sixfold.model.source import Source
from sixfold.runner.layer_runner import LayerRunner
from verification.divergence.activations import RoundedInputs
from verification.measure import runs_of


def reader_logits(
    artifact: Path, source: Source, ids: torch.Tensor, run: str = "weights", exact: str = "nothing"
) -> torch.Tensor:
    """ids: int64 [samples, length]. run: "weights", or "engine" with inputs rounded as the engine rounds them, but
    those of weights with `exact` in their names.

    Returns float32 [samples, length, vocabulary].
    """
    weights, runs = runs_of(artifact, source)

    def read_into(name: str, out: torch.Tensor) -> None:
        out.copy_(weights.read(name).reshape(out.shape))

    runner = LayerRunner(source, dtype=torch.float32, device=torch.device("cpu"), read_into=read_into)
    rules = {name: rule for name, rule in runs[run].items() if exact not in name}
    rounding = RoundedInputs(runner, rules)
    runner.model.set_experts_implementation("eager")
    with torch.inference_mode():
        with runner.outside():
            hidden = runner.start(ids)
        for layer, _ in runner.each_layer():
            rounding.place(layer)
            with rounding:
                hidden = runner.run(layer, ids, hidden)
        with runner.outside():
            return runner.finish(ids, hidden).logits.float()


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Mean KL per token of q from p, both logits."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
