"""What llama.cpp calls the tensors of a checkpoint."""

import pytest

from sixfold.errors import SixfoldError
from sixfold.model.gguf.architectures import decoder_config, gguf_architecture
from sixfold.model.gguf.tensor_names import gguf_tensor_names

SEES = {"model_type": "qwen3_5_moe", "text_config": {"num_hidden_layers": 2}}


def test_the_decoder_of_a_checkpoint_that_sees() -> None:
    names = [
        "model.language_model.layers.0.linear_attn.dt_bias",
        "model.language_model.layers.1.mlp.experts.3.up_proj.weight",
        "model.visual.blocks.0.mlp.linear_fc1.weight",
        "mtp.layers.0.mlp.gate.weight",
        "lm_head.weight",
    ]
    assert gguf_tensor_names(SEES, names) == {
        names[0]: "blk.0.ssm_dt.bias",
        names[1]: "blk.1.ffn_up_exps.weight",
        names[3]: "blk.2.ffn_gate_inp.weight",
        names[4]: "output.weight",
    }


def test_a_model_type_that_only_its_publisher_knows() -> None:
    """Kimi-K2's config.json names DeepSeek-V3's class; Kimi-K2.5's does so of its decoder."""
    named = {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 2}
    assert gguf_architecture(named) == "deepseek2"
    sees = {"model_type": "kimi_k25", "text_config": named}
    assert gguf_architecture(sees) == "deepseek2"
    assert decoder_config(sees)["model_type"] == "deepseek_v3"
    for layers in ("layers", "blocks"):  # as published, and as transformers saves them
        names = [f"language_model.model.{layers}.1.self_attn.o_proj.weight", "vision_tower.encoder.blocks.1.wo.weight"]
        assert gguf_tensor_names(sees, names) == {names[0]: "blk.1.attn_output.weight"}
    with pytest.raises(SixfoldError, match="no GGUF layout is known for model_type other"):
        gguf_architecture({"model_type": "other", "architectures": ["OtherForCausalLM"]})
