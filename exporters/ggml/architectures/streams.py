"""Architectures that hand several streams of hidden states from layer to layer (hyper-connections)."""

from collections.abc import Mapping
from dataclasses import replace

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import DRAFTS, INDEXER, SHARED_EXPERTS, VOCAB, Entry, leading_dense
from exporters.ggml.architectures.hybrid import QWEN35MOE, RECURRENT, axial_delta_net
from exporters.ggml.architectures.rotary import Config, rotary_size
from sixfold.errors import SixfoldError

_LEAVE_OUT = "leave the gguf recipes out for this model"
_CONNECTIONS = (("count", "hc_mult"), ("sinkhorn_iterations", "hc_sinkhorn_iters"))


def _connections(writer: GGUFWriter, config: Config) -> None:
    """gguf-py 0.19 has none of these keys."""
    for key, name in _CONNECTIONS:
        writer.add_uint32(f"{writer.arch}.hyper_connection.{key}", config[name])
    writer.add_float32(f"{writer.arch}.hyper_connection.epsilon", config["hc_eps"])


def _clamped(writer: GGUFWriter, config: Config) -> None:
    """Of each layer, how large gates and what they gate may be."""
    limits = [config["swiglu_limit"]] * (config["num_hidden_layers"] + (config.get(DRAFTS) or 0))
    writer.add_swiglu_clamp_exp(limits)
    writer.add_swiglu_clamp_shexp(limits)


def _glm5_next(writer: GGUFWriter, config: Config) -> None:
    """Delta nets whose every channel decays by itself, and latent attention without positions to chosen tokens."""
    _connections(writer, config)
    _clamped(writer, config)
    drafts = config.get(DRAFTS) or 0
    writer.add_head_count_kv([int(kind not in RECURRENT) for kind in config["layer_types"]] + [1] * drafts)
    writer.add_layer_norm_eps(1e-6)  # of the indexer
    if config["linear_lower_bound"] is not None:
        writer.add_float32(f"{writer.arch}.kda.gate_lower_bound", config["linear_lower_bound"])
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_rope_dimension_count(rope)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_leading_dense_block_count(leading_dense(config))
    indexer = f"{writer.arch}.attention.indexer"
    writer.add_uint32(f"{indexer}.kpool", config["index_kpool"])
    writer.add_bool(f"{indexer}.kpool_select_tail", config["index_kpool_always_select_tail"])
    writer.add_array(f"{indexer}.types", [kind == "full" for kind in config["indexer_types"]])


_RATES, _KNOWN_RATIOS = {"sliding_attention": 0}, {0, 4, 128}


def _deepseek4(writer: GGUFWriter, config: Config) -> None:
    """Windows beside compressed keys, of which an indexer chooses some, and experts that a table gives each token."""
    _connections(writer, config)
    _clamped(writer, config)
    writer.add_embedding_length_out(config["hidden_size"] * config["hc_mult"])
    writer.add_rope_dimension_count(rotary_size(as_one(config)))
    rates = {**_RATES, **config["compress_rates"]}
    ratios = [rates[kind] for kind in config["layer_types"]]
    if not set(ratios) <= _KNOWN_RATIOS:
        raise SixfoldError(f"llama.cpp does not run this deepseek_v4, which compresses keys by {ratios}", _LEAVE_OUT)
    attention = f"{writer.arch}.attention"
    writer.add_array(f"{attention}.compress_ratios", ratios)
    writer.add_float32(f"{attention}.compress_rope_freq_base", config["compress_rope_theta"])
    writer.add_uint32(f"{attention}.output_group_count", config["o_groups"])
    writer.add_uint32(f"{attention}.output_lora_rank", config["o_lora_rank"])
    kinds = [*config["mlp_layer_types"], "moe"]
    writer.add_uint32(f"{writer.arch}.hash_layer_count", kinds.index("moe"))


def as_one(config: Config) -> Config:
    """DeepSeek-V4's rotary positions as llama.cpp is told of them: the base of windows, and all else of compressed
    keys, whose base has a key of its own."""
    rope = config["rope_parameters"]
    scaled = {name: value for name, value in rope["compress"].items() if name != "attention_factor"}  # always 1
    return {**config, "rope_parameters": {**scaled, "rope_theta": rope["main"]["rope_theta"]}}


def _ngrams(writer: GGUFWriter, config: Config) -> None:
    """Rows of a table, by what tokens and those before them are hashed to. gguf-py 0.19 has none of these keys."""
    layers, own = [number - 1 for number in config["ple_layer_ids"]], f"{writer.arch}.ple"
    if len(layers) > 1:
        raise SixfoldError("llama.cpp embeds n-grams in one layer, and this qwen4_exp does in several", _LEAVE_OUT)
    size, heads, end = config["ngram_size"], config["heads_per_ngram"], config["eos_token_id"]
    writer.add_array(f"{own}.layers", layers)
    writer.add_uint32(f"{own}.ngram_size", size)
    writer.add_uint32(f"{own}.heads_per_ngram", heads)
    writer.add_uint32(f"{own}.conv_kernel", config["ple_conv_kernel_size"])
    writer.add_uint32(f"{own}.eos_token_id", end[0] if isinstance(end, list) else end)
    if config.get("image_token_id") is not None:
        writer.add_uint32(f"{own}.image_token_id", config["image_token_id"])
    writer.add_embedding_length_per_layer_input(config["ple_embed_dim"] // ((size - 1) * heads))


def _qwen4(writer: GGUFWriter, config: Config) -> None:
    """Qwen3.5's delta nets, and attention to blocks of tokens that an indexer chooses."""
    gate = config.get("output_gate_type") or config["hidden_act"]
    if gate != "sigmoid":
        what = f"this qwen4_exp gates its delta nets by {gate}, which is not written into GGUF files"
        raise SixfoldError(what, _LEAVE_OUT)
    if config.get("ple_layer_ids"):
        _ngrams(writer, config)
    axial_delta_net(writer, config, share=1.0)
    writer.add_uint32(f"{writer.arch}.hyper_connection.count", config["hc_count"])
    writer.add_uint32(f"{writer.arch}.hyper_connection.low_rank", config["hc_lowrank"])
    block = config["indexer_compress_ratio"]
    ratios = [0 if kind in RECURRENT else block for kind in config["layer_types"]]
    writer.add_array(f"{writer.arch}.attention.compress_ratios", ratios)


STREAMS: Mapping[str, Entry] = {
    "glm5-next": Entry(
        (
            *VOCAB,
            *SHARED_EXPERTS,
            *INDEXER,
            ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
            ("add_kda_head_dim", ("linear_head_dim",)),
            ("add_q_lora_rank", ("q_lora_rank",)),
            ("add_kv_lora_rank", ("kv_lora_rank",)),
            ("add_value_length_mla", ("v_head_dim",)),
        ),
        _glm5_next,
        {"num_key_value_heads": None, "head_dim": None, "first_k_dense_replace": None},
        gating={"glm5_next": "sigmoid", "glm5_next_text": "sigmoid"},
    ),
    "deepseek4": Entry(
        (
            *SHARED_EXPERTS,
            *INDEXER,
            ("add_q_lora_rank", ("q_lora_rank",)),
            ("add_sliding_window", ("sliding_window",)),
        ),
        _deepseek4,
        as_one,
    ),
    "qwen4exp": replace(
        QWEN35MOE,
        table=(
            *QWEN35MOE.table,
            ("add_indexer_head_count", ("indexer_n_heads",)),
            ("add_indexer_key_length", ("indexer_head_dim",)),
            ("add_indexer_top_k", ("indexer_budget",)),
        ),
        extra=_qwen4,
        one_plus=rf"{QWEN35MOE.one_plus}|ple_norm_(key|query|conv)\.weight$",
    ),
}
"""By llama.cpp's architecture name."""
