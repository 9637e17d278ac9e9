"""The model's numbers as llama.cpp reads them: `<architecture>.*` keys of a GGUF file, a short entry per architecture.

An entry is a table of gguf-py's writer methods with the config keys that they take their value from. What needs more
than one value is a small function. Keys are those that llama.cpp's converter writes for the same model.
"""

from collections.abc import Iterable, Mapping

from gguf import GGUFValueType, GGUFWriter

from exporters.ggml.architectures.dense import DENSE
from exporters.ggml.architectures.elder import ELDER
from exporters.ggml.architectures.entry import DRAFTS, NUMBERS, Entry, Table
from exporters.ggml.architectures.hybrid import HYBRID
from exporters.ggml.architectures.mixture import MIXTURE
from exporters.ggml.architectures.rotary import LONG_ROPE, Config, rope_of, write_rope
from exporters.ggml.architectures.state_space import STATE_SPACE
from exporters.ggml.architectures.streams import STREAMS
from sixfold.errors import SixfoldError

ENTRIES: Mapping[str, Entry] = {**DENSE, **ELDER, **MIXTURE, **HYBRID, **STATE_SPACE, **STREAMS}
"""By llama.cpp's architecture name."""

_EVERY: Table = (
    ("add_context_length", ("max_position_embeddings",)),
    ("add_embedding_length", ("hidden_size",)),
    ("add_feed_forward_length", ("intermediate_size_mlp", "intermediate_size")),
    ("add_head_count", ("num_attention_heads",)),
    ("add_head_count_kv", ("num_key_value_heads",)),
    ("add_layer_norm_rms_eps", ("rms_norm_eps", "norm_eps")),
    ("add_layer_norm_eps", ("layer_norm_eps", "norm_epsilon")),
    ("add_expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("add_expert_used_count", ("num_experts_per_tok", "top_k_experts")),
    ("add_expert_group_count", ("n_group",)),
    ("add_expert_group_used_count", ("topk_group",)),
    ("add_key_length", ("head_dim",)),
    ("add_value_length", ("head_dim",)),
)
_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
"""llama.cpp's numbers, of which gguf-py 0.19 does not have all."""


def write_hyperparameters(writer: GGUFWriter, arch: str, config: Config) -> None:
    """Add all `<arch>.*` keys. config: as from `sixfold.model.meta_model.completed`, with DRAFTS and NUMBERS of
    the file.

    Raises SixfoldError where llama.cpp has no key for something.
    """
    entry = ENTRIES[arch]
    own, config = config, as_stated(arch, config)
    drafts = config.get(DRAFTS) or 0
    writer.add_block_count(config["num_hidden_layers"] + drafts)
    if drafts:
        writer.add_nextn_predict_layers(drafts)
    for method, keys in (*_EVERY, *entry.table):
        value = next((config[key] for key in keys if config.get(key) is not None), None)
        if value is not None:
            getattr(writer, method)(value)
    scoring = (
        config.get("scoring_func")
        or config.get("expert_selection_fn")
        or (entry.gating or {}).get(config["model_type"])
    )
    if scoring is not None:
        if scoring not in _GATING:
            raise SixfoldError(f"GGUF has no expert gating function {scoring!r}", "leave the gguf recipes out")
        writer.add_uint32(f"{arch}.expert_gating_func", _GATING[scoring])
    write_rope(writer, rope_of(config), (LONG_ROPE,) if entry.long_rope else ())
    windowed = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if windowed.get("rope_theta") is not None:
        writer.add_rope_freq_base_swa(windowed["rope_theta"])
    sections = rope_of(config).get("mrope_section")
    if sections:
        writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])
    for key, values in (config.get(NUMBERS) or {}).items():
        if isinstance(values[0], int):  # larger than gguf-py takes for given
            writer.add_key_value(key, values, GGUFValueType.ARRAY, GGUFValueType.UINT64)
        else:
            writer.add_array(key, values)
    entry.extra(writer, own)


def as_stated(arch: str, config: Config) -> Config:
    """The config with the values that the file of this architecture states otherwise."""
    replaced = ENTRIES[arch].replaced
    return {**config, **((replaced(config) if callable(replaced) else replaced) or {})}


def differences(arch: str, config: Config) -> Iterable[str]:
    """Where llama.cpp will compute something else than transformers, a sentence each."""
    if ENTRIES[arch].disputed:
        yield ENTRIES[arch].disputed
    renormalized = ENTRIES[arch].renormalized
    for name, given in ENTRIES[arch].fixed.items():
        if config.get(name) is not None and config[name] != given(config):
            yield (
                f"llama.cpp computes {arch} with {name} = {given(config)}, this checkpoint says {config[name]}:"
                " answers will differ from the source's"
            )
    asked = config.get("norm_topk_prob")
    if renormalized is not None and asked is not None and bool(asked) != renormalized:
        does = "always" if renormalized else "never"
        yield (
            f"llama.cpp {does} renormalizes the weights of chosen experts in {arch}, this checkpoint asks for the"
            f" opposite (norm_topk_prob: {str(asked).lower()}): answers will differ from the source's"
        )
