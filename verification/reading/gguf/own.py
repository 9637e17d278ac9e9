"""Tensors that an architecture calls, or holds, otherwise than most: outside of blocks, bare parameters, parts of one
matrix, and rows, columns and values that differ from those on disk."""

import re
from collections.abc import Mapping

from verification.reading.gguf.modules import CONNECTION
from verification.reading.gguf.tables import BAMBA, FALCON_TWO_NORMS, GRANITE_4

OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "token_embd_norm": "model.embedding_norm",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}

BIASES = {
    "minimax-m2": "block_sparse_moe.e_score_correction_bias",
    "glm4moe": "mlp.gate.e_score_correction_bias",
    "deepseek2": "mlp.gate.e_score_correction_bias",
    "deepseek32": "mlp.gate.e_score_correction_bias",
    "deepseek4": "ffn.gate.bias",
    "glm-dsa": "mlp.gate.e_score_correction_bias",
    "glm5-next": "mlp.gate.e_score_correction_bias",
    "step35": "moe.router_bias",
    "hy_v3": "mlp.expert_bias",
    "hy_v4": "mlp.gate.e_score_correction_bias",
    "laguna": "mlp.experts.e_score_correction_bias",
    "lfm2moe": "feed_forward.expert_bias",
    "nemotron_h_moe": "mixer.gate.e_score_correction_bias",
    "kimi-linear": "block_sparse_moe.gate.e_score_correction_bias",
    "mimo2": "mlp.gate.e_score_correction_bias",
    "minimax-m3": "block_sparse_moe.e_score_correction_bias",
    "exaone-moe": "mlp.e_score_correction_bias",
    "afmoe": "mlp.expert_bias",
    "ernie4_5-moe": "mlp.moe_statics.e_score_correction_bias",
}
BARE = {"attn_sinks.weight": "self_attn.sinks", "ssm_a": "{}.A_log", "ssm_d": "{}.D", "ssm_dt.bias": "{}.dt_bias"}
"""Tensors of a block that are no weight or bias of a module on disk."""

_STREAMS = {
    f"hc_{block}_{part}.weight": f"hc_{block}_{part}" for block in ("attn", "ffn") for part in ("fn", "base", "scale")
}
"""What mixes the streams of hidden states around attention and feed-forward."""

ALONE: Mapping[str, Mapping[str, str]] = {
    "deepseek4": _STREAMS
    | {
        "attn_sinks.weight": "attn.attn_sink",
        "attn_compressor_ape.weight": "attn.compressor.ape",
        "indexer_compressor_ape.weight": "attn.indexer.compressor.ape",
        "ffn_gate_tid2eid.weight": "ffn.gate.tid2eid",
        **{f"output_hc_{part}.weight": f"model.hc_head.hc_{part}" for part in ("fn", "base", "scale")},
    },
    "glm5-next": _STREAMS
    | {
        f"indexer_compressor_{part}.weight": f"self_attn.indexer.index_kpool_compress_{part}"
        for part in ("ape", "gate")
    },
    "hy_v4": {
        **{
            f"hc_{block}_{part}.weight": f"hc_{layer}_layer.hc_pre.hc_{part}"
            for block, layer in (("attn", "attn"), ("ffn", "mlp"))
            for part in ("fn", "base", "scale")
        },
        **{f"output_hc_{part}.weight": f"model.hc_head.hc_head_{part}" for part in ("fn", "base", "scale")},
        "attn_sinks.weight": "self_attn.learnable_sink_param",
    },
    "dbrx": {
        f"ffn_{part}_exps.weight": f"ffn.experts.mlp.{name}"
        for part, name in (("gate", "w1"), ("up", "v1"), ("down", "w2"))
    },
    "falcon-h1": {"ffn_norm": "pre_ff_layernorm.weight"},
    "hrm_text": {"hrm.z_l_init": "model.z_L_init"},
    "mimo2": {"attn_sinks.weight": "self_attn.attention_sink_bias"},
    "gemma3n": {
        "altup_proj.weight": "model.altup_projections.{}.weight",
        "altup_unembd_proj.weight": "model.altup_unembed_projections.{}.weight",
        "altup_correct_scale.weight": "altup.correct_output_scale",
    },
    "gemma4": {
        "layer_output_scale.weight": "layer_scalar",
        "ffn_gate_inp.scale": "router.scale",
        "ffn_down_exps.scale": "router.per_expert_scale",
    },
}
"""The same of one architecture."""

_HASHES = (
    ("layer_multipliers", "layer_multipliers"),
    ("head_offsets", "ngram_heads_offsets"),
    ("head_vocab_sizes", "ngram_heads_vocab_sizes"),
)
NUMBERS: Mapping[str, Mapping[str, str]] = {
    "apertus": {
        f"xielu.{name}": f"model.layers.{{}}.mlp.act_fn.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")
    },
    "qwen4exp": {f"qwen4exp.ple.{key}": f"model.layers.{{}}.ple.ple_embedding.{name}" for key, name in _HASHES},
}
"""Keys that list numbers of all layers that have some, and the tensors on disk that do."""

_STATED = tuple(name.rpartition("{}")[2] for of in NUMBERS.values() for name in of.values())


RECOMPUTED = re.compile(r"inv_freq$|rotary_emb\.|self_attn\.(slope_rate|(query|key|diagonal)_decay)$")
"""Buffers on disk that llama.cpp computes itself (the latter those of MiniMax's lightning attention)."""


def never_a_tensor(name: str) -> bool:
    """Whether files of its architecture hold no such tensor, on disk: its numbers are in a key, or llama.cpp computes
    them."""
    return name.endswith(_STATED) or RECOMPUTED.search(name) is not None


MIXERS = {
    "nemotron_h": "mixer",
    "nemotron_h_moe": "mixer",
    "granitehybrid": "mamba",
    BAMBA: "mamba",
    "falcon-h1": "mamba",
    "jamba": "mamba",
    "mamba": "mixer",
    "mamba2": "mixer",
    "glm5-next": "self_attn",
    "kimi-linear": "self_attn",
}
"""What the recurrent module is called, where it is not a delta net's linear_attn."""

AS_MATRICES = ("nemotron_h", "nemotron_h_moe", "granitehybrid", BAMBA, "falcon-h1", "mamba2")
"""Architectures whose files hold vectors of a mixer as matrices."""

_BACKBONE = {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "layers": "backbone.layers"}
_FINAL = {"output_norm": "model.final_layernorm"}
_GPT = {"token_embd": "transformer.wte", "output_norm": "transformer.ln_f", "layers": "transformer.h"}
ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    BAMBA: _FINAL,
    "falcon-h1": _FINAL,
    "jamba": _FINAL,
    "mamba": _BACKBONE,
    "mamba2": _BACKBONE,
    "nemotron_h": _BACKBONE,
    "nemotron_h_moe": _BACKBONE,
    "deepseek4": {"output": "head"},
    "qwen4exp": {f"output_hc_{part}": f"model.hyper_connection_mixer.{name}" for part, name in CONNECTION.items()},
    "phi2": _FINAL,
    "bloom": _GPT
    | {
        "token_embd": "transformer.word_embeddings",
        "token_embd_norm": "transformer.word_embeddings_layernorm",
    },
    **dict.fromkeys(("falcon", FALCON_TWO_NORMS), _GPT | {"token_embd": "transformer.word_embeddings"}),
    "gptneox": {
        "token_embd": "gpt_neox.embed_in",
        "output": "embed_out",
        "output_norm": "gpt_neox.final_layer_norm",
        "layers": "gpt_neox.layers",
    },
    **dict.fromkeys(("dbrx", "mpt"), _GPT | {"output_norm": "transformer.norm_f", "layers": "transformer.blocks"}),
    **dict.fromkeys(("gpt2", "starcoder"), _GPT | {"position_embd": "transformer.wpe"}),
}
"""Of tensors outside of blocks, and of the list of layers, where an architecture calls them otherwise."""

_SHARED_PARTS, _DENSE_PARTS = ("ffn_gate_shexp", "ffn_up_shexp"), ("ffn_gate", "ffn_up")
IN_PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "granitemoe": (_SHARED_PARTS,),
    **dict.fromkeys((GRANITE_4, "granitehybrid"), (_SHARED_PARTS, _DENSE_PARTS)),
    "hrm_text": (("attn_gate", "attn_q", "attn_k", "attn_v"), _DENSE_PARTS),
    "qwen3next": (("attn_qkv", "attn_gate"),),
    "qwen4exp": (("indexer.q_proj", "indexer.k_proj"),),
}
"""Parts of one matrix on disk, one behind the other."""

LATENT_ARCHITECTURES = ("deepseek2", "deepseek32", "glm-dsa", "glm5-next", "hy_v4", "kimi-linear", "mistral4")

COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that no checkpoint holds."""

PAIRED_ROPE = (
    *("llama", "mistral3", "granite", "granitemoe", "granite_swa", "granitehybrid", "olmo"),
    *("nemotron_h", "nemotron_h_moe", GRANITE_4, BAMBA),
)
"""Architectures whose q and k rows llama.cpp takes interleaved: row 2i + j of a head is row i + j * D/2 on disk."""

ONE_PLUS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    (
        *("gemma2", "gemma3", "minimax-m3", "nemotron"),
        *("qwen35", "qwen35moe", "qwen3next", "step35"),
    ),
    ("norm",),
) | {"qwen4exp": ("norm", "ple_norm_key", "ple_norm_query", "ple_norm_conv")}
"""Architectures that hold norms with the one that the model adds to them: the ends of their names."""

DELTA_NETS = ("qwen35", "qwen35moe", "qwen4exp")
"""Architectures whose delta nets' values llama.cpp takes key by key: those of a key lie together on disk."""

HEAD_BY_HEAD = ("bloom", "falcon", FALCON_TWO_NORMS, "gptneox")
"""Architectures whose queries, keys and values of a head lie together on disk, and those of all heads in files."""

TURNED = {"gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "dbrx": ("ffn_down_exps",)}
"""Matrices that the disk has as [in, out]."""

ROWS_OF_EXPERTS = {"dbrx": ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")}
"""Stacks that the disk has as one matrix, an expert's rows behind the other's."""

OF_VALUES = {"attn_gate", "ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt"}
BEHIND_KEYS = {"attn_qkv", "ssm_conv1d"}
