"""Channels of a delta net in llama.cpp's order."""

import torch

from sixfold.model.gguf.arrangements import ValueHeads, tiled_inputs

DELTA = {
    "model_type": "qwen3_5_moe",
    "text_config": {
        "num_hidden_layers": 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "linear_value_head_dim": 4,
    },
}


def test_values_of_a_delta_net_by_their_definition() -> None:
    """Channel c of the value e of key k: on disk at (k * 3 + e) * 4 + c, for llama.cpp at (e * 2 + k) * 4 + c."""
    on_disk = torch.arange(24.0)
    expected = torch.tensor([on_disk[(k * 3 + e) * 4 + c] for e in range(3) for k in range(2) for c in range(4)])
    heads = ValueHeads(2, 3, 4)
    assert torch.equal(heads.tiled(on_disk), expected)
    assert torch.equal(heads.untiled(expected), on_disk)
    assert tiled_inputs(DELTA, "blk.0.ssm_out.weight") == heads
    assert tiled_inputs(DELTA, "blk.0.ssm_alpha.weight") is None
