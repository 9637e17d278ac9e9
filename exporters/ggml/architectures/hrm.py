"""HRM-Text: a stack of low-level layers and one of high-level layers that run in turns, several times each."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import Entry
from exporters.ggml.architectures.rotary import Config, head_size


def _hrm_text(writer: GGUFWriter, config: Config) -> None:
    """The file counts a block for each time that a layer runs, as each has keys and values of its own, and holds each
    layer once. gguf-py 0.19 has none of these keys."""
    writer.add_rope_dimension_count(head_size(config))
    writer.add_embedding_scale(config["embedding_scale"])
    for name in ("layers_per_stack", "H_cycles", "L_cycles"):
        writer.add_uint32(f"{writer.arch}.hrm.{name.lower()}", config.get(f"num_{name}") or config[name])
    writer.add_bool(f"{writer.arch}.hrm.prefix_lm", bool(config["prefix_lm"]))


HRM: Mapping[str, Entry] = {"hrm_text": Entry((), _hrm_text, fixed={"prefix_lm": lambda config: False})}
"""By llama.cpp's architecture name."""
