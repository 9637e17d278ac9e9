"""Architectures with delta nets or convolutions in place of attention in most layers."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import EXPERT_SIZES, VOCAB, Entry, Table
from exporters.ggml.architectures.rotary import Config, rope_of, rotary_size

_DELTA_NET: Table = (
    ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
    ("add_ssm_state_size", ("linear_key_head_dim",)),
    ("add_ssm_group_count", ("linear_num_key_heads",)),
    ("add_ssm_time_step_rank", ("linear_num_value_heads",)),
)
_NORMS_OUTSIDE_DELTA_NETS = r"(?<!ssm_)norm\.weight$"
_LFM2: Config = {"num_key_value_heads": None, "intermediate_size": None}
"""What `_lfm2` writes."""


def _lfm2(writer: GGUFWriter, config: Config) -> None:
    """A convolution has no heads of keys."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config["layer_types"]])
    width = config["intermediate_size"]
    if config["block_auto_adjust_ff_dim"]:
        width = int(int(2 * width / 3) * (config["block_ffn_dim_multiplier"] or 1))
        width = -(-width // config["block_multiple_of"]) * config["block_multiple_of"]
    writer.add_feed_forward_length(width)


def _delta_net(writer: GGUFWriter, config: Config) -> None:
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    kinds = [*config["layer_types"], "full_attention"]
    writer.add_full_attention_interval(kinds.index("full_attention") + 1)
    writer.add_rope_dimension_count(rotary_size(config, 0.25))

    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([11, 11, 10, 0])


HYBRID: Mapping[str, Entry] = {
    "lfm2": Entry((*VOCAB, ("add_shortconv_l_cache", ("conv_L_cache",))), _lfm2, _LFM2),
    "qwen35": Entry(_DELTA_NET, _delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True),
    "qwen35moe": Entry((*EXPERT_SIZES, *_DELTA_NET), _delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True),
}
"""By llama.cpp's architecture name."""
