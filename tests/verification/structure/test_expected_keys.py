"""What a config says of a GGUF file's keys where it says it in another field."""

from verification.structure.gguf.expected import common_keys


def test_layers_are_counted_where_only_their_kinds_are_listed() -> None:
    """Nemotron-H: no num_hidden_layers."""
    config = {
        "layers_block_type": ["mamba", "attention", "moe"],
        "hidden_size": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "vocab_size": 16,
        "layer_norm_epsilon": 1e-5,
    }
    keys = common_keys(config, drafts=1)
    assert keys["block_count"].values == (4,)
