"""Architectures with queries, keys and values in one matrix: those of the years before LLaMA, and DBRX."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import Entry, Table
from exporters.ggml.architectures.rotary import Config, rotary_size
from sixfold.errors import SixfoldError

_EPSILON: Table = (("add_layer_norm_eps", ("layer_norm_epsilon",)),)
_ONE_HEAD_OF_KEYS: Config = {"num_key_value_heads": None}
"""What `_starcoder` writes."""


def _bloom(writer: GGUFWriter, config: Config) -> None:
    """Positions are distances alone, so that contexts are as long as it was trained on, or as llama.cpp's converter has
    it, as the hidden size."""
    writer.add_context_length(config.get("seq_length") or config["hidden_size"])
    writer.add_feed_forward_length(4 * config["hidden_size"])
    writer.add_head_count_kv(config["num_attention_heads"])


def _gpt2(writer: GGUFWriter, config: Config) -> None:
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["hidden_size"])


def _heads_of_keys(config: Config) -> int:
    """The older architecture has one for all, or one each."""
    heads: int = config["num_attention_heads"]
    if config.get("new_decoder_architecture"):
        return config.get("num_kv_heads") or heads
    return 1 if config.get("multi_query", True) else heads


def _falcon(writer: GGUFWriter, config: Config) -> None:
    writer.add_tensor_data_layout("jploski")
    writer.add_feed_forward_length(config.get("ffn_hidden_size") or 4 * config["hidden_size"])


def _gptneox(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config))
    writer.add_parallel_residual(bool(config.get("use_parallel_residual", True)))


def _mpt(writer: GGUFWriter, config: Config) -> None:
    attention = config["attn_config"]
    writer.add_context_length(config["max_seq_len"])
    writer.add_feed_forward_length(config["expansion_ratio"] * config["hidden_size"])
    if attention.get("clip_qkv") is not None:
        writer.add_clamp_kqv(attention["clip_qkv"])
    writer.add_max_alibi_bias(float(attention["alibi_bias_max"]) if attention.get("alibi") else 0.0)


def _dbrx(writer: GGUFWriter, config: Config) -> None:
    """Its norms have no epsilon in config.json."""
    writer.add_layer_norm_eps(1e-5)
    writer.add_clamp_kqv(config["attn_config"].get("clip_qkv") or 0.0)
    power = config["ffn_config"].get("moe_normalize_expert_weights")
    if power != 1:
        raise SixfoldError(
            "llama.cpp divides the weights of a dbrx's chosen experts by their sum, and this checkpoint says"
            f" moe_normalize_expert_weights: {power}",
            "leave the gguf recipes out for this model",
        )


def _nested(config: Config) -> Config:
    """What DBRX's config.json states of attention and of its experts."""
    attention, experts = config["attn_config"], config["ffn_config"]
    theta = {"rope_parameters": {"rope_theta": attention["rope_theta"]}} if attention.get("rope_theta") else {}
    return {
        "num_key_value_heads": attention["kv_n_heads"],
        "intermediate_size": experts["ffn_hidden_size"],
        "num_local_experts": experts["moe_num_experts"],
        "num_experts_per_tok": experts["moe_top_k"],
        **theta,
    }


def _starcoder(writer: GGUFWriter, config: Config) -> None:
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["hidden_size"])
    writer.add_head_count_kv(1)


ELDER: Mapping[str, Entry] = {
    "bloom": Entry(_EPSILON, _bloom, head_by_head=True),
    "dbrx": Entry(
        (), _dbrx, _nested, expert_rows={"ffn_gate_exps": False, "ffn_up_exps": False, "ffn_down_exps": True}
    ),
    "falcon": Entry(
        _EPSILON,
        _falcon,
        lambda config: {"num_key_value_heads": _heads_of_keys(config)},
        head_by_head=True,
        fixed={  # positions turn channels, and attention and the feed-forward read the same
            "alibi": lambda config: False,
            "bias": lambda config: False,
            "parallel_attn": lambda config: True,
        },
    ),
    "gpt2": Entry(_EPSILON, _gpt2, transposed=r"\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$"),
    "gptneox": Entry((), _gptneox, head_by_head=True),
    "mpt": Entry(_EPSILON, _mpt),
    "starcoder": Entry(_EPSILON, _starcoder, _ONE_HEAD_OF_KEYS, fixed={"multi_query": lambda config: True}),
}
"""By llama.cpp's architecture name."""
