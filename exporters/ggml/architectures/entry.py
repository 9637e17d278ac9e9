"""What is declared of an architecture of llama.cpp's, and tables of keys that several share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFWriter, RopeScalingType

from exporters.ggml.architectures.rotary import Config, head_size, rope_of, rotary_size

DRAFTS = "drafts held"
"""Beside a config's fields: how many MTP layers the file holds behind the decoder's, whatever config.json says."""

NUMBERS = "numbers held"
"""The same: keys whose values are tensors on disk, a few numbers for each layer."""

Table = tuple[tuple[str, tuple[str, ...]], ...]

EXPERT_SIZES: Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_feed_forward_length", ("shared_expert_intermediate_size",)),
)
SHARED_EXPERTS: Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_count", ("n_shared_experts",)),
    ("add_leading_dense_block_count", ("first_k_dense_replace",)),
    ("add_expert_weights_scale", ("routed_scaling_factor",)),
    ("add_expert_weights_norm", ("norm_topk_prob",)),
)
INDEXER: Table = (
    ("add_indexer_head_count", ("index_n_heads",)),
    ("add_indexer_key_length", ("index_head_dim",)),
    ("add_indexer_top_k", ("index_topk",)),
)
VOCAB: Table = (("add_vocab_size", ("vocab_size",)),)
WINDOW: Table = (("add_sliding_window", ("sliding_window",)),)
SCALES: Table = (
    ("add_attention_scale", ("attention_multiplier",)),
    ("add_embedding_scale", ("embedding_multiplier",)),
    ("add_residual_scale", ("residual_multiplier",)),
    ("add_logit_scale", ("logits_scaling",)),
)
GRANITE_SHARED: Table = (("add_expert_shared_feed_forward_length", ("shared_intermediate_size",)),)
GRANITE_MIXERS: Table = (
    ("add_ssm_conv_kernel", ("mamba_d_conv",)),
    ("add_ssm_state_size", ("mamba_d_state",)),
    ("add_ssm_group_count", ("mamba_n_groups",)),
    ("add_ssm_time_step_rank", ("mamba_n_heads",)),
)
GRANITE_4 = "granitemoehybrid"
NORMS = r"norm\.weight$"
"""Of `Entry.one_plus`: all norms."""


def nothing(writer: GGUFWriter, config: Config) -> None:
    pass


def unstated(config: Config) -> bool | None:
    return None


def without_multipliers(config: Config) -> Mapping[str, Sequence[str]]:
    return {}


def granite_vocabulary(config: Config) -> bool | None:
    """Of a LLaMA with the 49152 tokens of Granite's and SmolLM's code models, whose texts begin with no token."""
    return False if config["vocab_size"] == 49152 else None


def llama_keys(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(head_size(config))


def windows(writer: GGUFWriter, config: Config) -> None:
    """Windows in some layers alone. Nothing where no layer has one."""
    if config.get("sliding_window") is not None and "sliding_attention" in (config.get("layer_types") or ()):
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])


def leading_dense(config: Config) -> int:
    """How many layers without experts come first, of a config that names the kind of each."""
    return [*(config.get("mlp_layer_types") or ()), "sparse"].index("sparse")


def without_scaling(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)


def granite_keys(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    if config["model_type"] == GRANITE_4:
        writer.add_rope_scaling_finetuned(True)  # llama.cpp reads it as "rotary positions"
        writer.add_ssm_inner_size(config["mamba_n_heads"] * config["mamba_d_head"])


def granite_replaced(config: Config) -> Config:
    """Of Granite 4 a number of heads for each layer, as its recurrent ones would have none, and sizes of these."""
    if config["model_type"] != GRANITE_4:
        return {"head_dim": None, **dict.fromkeys(name for _, (name,) in GRANITE_MIXERS)}
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    return {"head_dim": None, "num_key_value_heads": [heads] * config["num_hidden_layers"]}


def deepstack(writer: GGUFWriter, config: Config) -> None:
    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([24, 20, 20, 0])
    writer.add_num_deepstack_layers(len((config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()))


def half_rotated(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config, 0.5))


@dataclass(frozen=True)
class Entry:
    """An architecture beyond what all have in common.

    table, extra: further keys. replaced: config values that the file states otherwise.
    gating: what a config without `scoring_func` means, by transformers' model_type.
    renormalized: whether llama.cpp divides the chosen experts' weights by their sum whatever the file says (None: it
    asks the file, or does as transformers does).
    paired_rope: q and k rows are interleaved, as in the LLaMA of 2023; paired_part: where some channels of a head turn
    alone, those.
    apart_rope: they are neighbors on disk, and half a head apart in the file, where positions have several axes.
    rope_factors: whether Llama 3's scaling of rotary frequencies is held as a tensor; long_rope: whether LongRoPE's is.
    head_by_head: attn_qkv has queries, keys and values of each head side by side on disk, those of all heads in files.
    transposed: matrices (an expression on GGUF names) that the disk has as [in, out].
    expert_rows: tensors, by what they are called in a block, that have one expert's rows behind the other's on disk ->
    whether these are [in, out] there.
    padded: tensors of which the file has as many rows as a config field says, zeros behind the disk's.
    required: tensors that llama.cpp does not load a file without, "{}" for every layer.
    fixed: config fields whose value llama.cpp takes for given -> that value.
    one_plus: norms (an expression on GGUF names) that the file holds with the one that the model adds to them.
    delta_net: the file holds a delta net's values head by head of the keys' (see exporters.ggml.tensors).
    mamba_groups: config fields, one of which holds how many groups of channels the norm of a Mamba-2 mixer has: its
    vectors are columns in the file, and that norm is a matrix.
    multipliers: what a tensor is called in a block, or outside of them -> steps of `times` that are done to it.
    disputed: what llama.cpp and transformers compute otherwise of every model, a sentence; "" where nothing is known.
    begins: whether texts begin with a token, where the tokenizer's own files do not say; None to say nothing either.
    """

    table: Table = ()
    extra: Callable[[GGUFWriter, Config], None] = nothing
    replaced: Config | Callable[[Config], Config] | None = None
    gating: Mapping[str, str] | None = None
    renormalized: bool | None = None
    paired_rope: bool = False
    paired_part: bool = False
    apart_rope: bool = False
    rope_factors: bool = False
    long_rope: bool = False
    head_by_head: bool = False
    transposed: str = ""
    expert_rows: Mapping[str, bool] = field(default_factory=dict)
    padded: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    fixed: Mapping[str, Callable[[Config], Any]] = field(default_factory=dict)
    one_plus: str = ""
    delta_net: bool = False
    mamba_groups: tuple[str, ...] = ()
    multipliers: Callable[[Config], Mapping[str, Sequence[str]]] = without_multipliers
    disputed: str = ""
    begins: Callable[[Config], bool | None] = unstated
