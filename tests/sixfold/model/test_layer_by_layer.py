"""In which dtype a family's forward runs: as torch finds on real tensors."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sixfold.model.decoder import decoder_of
from sixfold.model.layer_by_layer import needs_float32
from tests.every_family import VOCABULARY, tiny_config


@pytest.mark.parametrize("family", ["llama", "mamba2", "xlstm"])
def test_a_family_needs_float32_where_its_forward_fails_in_bf16(family: str) -> None:
    model: Any = AutoModelForCausalLM.from_config(tiny_config(family, num_hidden_layers=1), dtype=torch.bfloat16).eval()
    ids = torch.arange(64)[None] % VOCABULARY
    with torch.no_grad():
        if family == "xlstm":
            with pytest.raises(RuntimeError, match="dtype"):
                model(ids, use_cache=False)
        else:
            model(ids, use_cache=False)
    model.to("meta")
    assert needs_float32(model, decoder_of(model)) == (family == "xlstm")


@pytest.mark.parametrize(("kept", "needed"), [("input_layernorm", True), ("norm", False), ("mlp", False)])
def test_norms_of_layers_that_stay_in_float32_need_it_all_around(kept: str, needed: bool) -> None:
    """What a norm of a layer gives is multiplied by BF16 weights; the last norm is outside of the layers."""
    model: Any = AutoModelForCausalLM.from_config(tiny_config("llama", num_hidden_layers=1), dtype=torch.bfloat16)
    model._keep_in_fp32_modules_strict = {kept}
    assert needs_float32(model.to("meta"), decoder_of(model)) == needed
