"""Microsoft's Phi models: rotary positions of some channels, or stretched by LongRoPE."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import Entry
from exporters.ggml.architectures.rotary import LONG_ROPE, Config, long_rope_attention, rope_of, rotary_size


def _phi2(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config, 0.5))


def _phi3(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config.get("sliding_window") or 0)
    writer.add_rope_dimension_count(rotary_size(config))
    before = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(before)
    if rope_of(config)["rope_type"] == LONG_ROPE:
        writer.add_rope_scaling_attn_factors(long_rope_attention(config))


PHI: Mapping[str, Entry] = {
    "phi2": Entry((), _phi2, begins=lambda config: False),
    "phi3": Entry((), _phi3, long_rope=True),
    "phimoe": Entry(
        (),
        _phi3,
        long_rope=True,
        required=("output.bias", "output_norm.bias", "blk.{}.attn_output.bias"),
        disputed="llama.cpp does not subtract the mean in phimoe's norms, and gives the experts of a token weights that"
        " add up to one, where transformers gives each one of about one: the file is as llama.cpp's converter has it,"
        " and its answers differ",
    ),
}
"""By llama.cpp's architecture name."""
