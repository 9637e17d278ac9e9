"""Experts that get the rows of all experts compute the same through transformers' interface, and are seen there."""

from typing import Any

import pytest
import torch
from transformers.models.llama4 import modeling_llama4

from sixfold.model.experts_interface import join_interface
from sixfold.runner.experts import experts_run_by
from tests.every_family import VOCABULARY, tiny_config


@pytest.mark.parametrize("chosen", [1, 2])
def test_llama_4_computes_the_same_and_is_seen(chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = modeling_llama4.Llama4TextExperts
    config = tiny_config("llama4_text", num_hidden_layers=2, num_experts_per_tok=chosen)
    ids = torch.arange(9)[None] % VOCABULARY

    def made() -> Any:
        torch.manual_seed(3)
        model = modeling_llama4.Llama4ForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return model

    with torch.no_grad():
        with monkeypatch.context() as own:  # transformers' forward, whatever ran in this process
            own.setattr(experts, "forward", getattr(experts.forward, "__wrapped__", experts.forward))
            before = made()(ids).logits
        join_interface(modeling_llama4.Llama4ForCausalLM)
        model, seen = made(), []
        for implementation in ("eager", "grouped_mm"):
            model.set_experts_implementation(implementation)
            torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-4)

        def watch(module: Any, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
            seen.append((hidden, index, gates))
            return torch.zeros_like(hidden)

        with experts_run_by(model, watch):
            model(ids)
    assert len(seen) == 2 * chosen
    for hidden, index, gates in seen:
        assert hidden.shape == (9, 256)
        assert index.shape == (9, 1)
        assert bool((gates == 1).all() and hidden.any(1).all())
