"""GGUF tensor names -> names on disk, from a table that is independent of the exporter's.

Stated from the architectures' tables in llama.cpp (src/llama-arch.cpp) and from transformers' modules. llama.cpp stacks
the experts of a layer; of each stacked tensor, row block N is expert N.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "token_embd_norm": "model.embedding_norm",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}

_EVERY = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GLM_4 = _EVERY | {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_SHARED = {f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")}
_SHARED_MIXTRAL = {
    f"ffn_{part}_shexp": f"block_sparse_moe.shared_experts.{part}_proj" for part in ("gate", "up", "down")
}
_LATENT = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
_HUNYUAN = _EVERY | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
_AFTER_ATTENTION = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NORMS_AFTER = {k: v for k, v in _EVERY.items() if k not in ("attn_norm", "ffn_norm")} | _AFTER_ATTENTION
_SHARED_EXPERT = {f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")} | {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate"
}
_GRANITE_EXPERTS = {f"ffn_{part}_exps": f"block_sparse_moe.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
_DELTA_NET = {k: v for k, v in _EVERY.items() if k != "ffn_norm"} | {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_CONNECTION = {
    "norm": "hc_norm",
    "down": "input_mix_weight_down",
    "up": "input_mix_weight_up",
    "inject": "block_inject_weight",
}
_COMPRESSOR = {"kv": "wkv", "gate": "wgate", "norm": "norm"}
_MAMBA = {"ssm_in": "in_proj", "ssm_out": "out_proj", "ssm_conv1d": "conv1d", "ssm_norm": "norm"}
_KIMI_DELTA_NET = {
    "ssm_beta": "self_attn.b_proj",
    "ssm_norm": "self_attn.o_norm",
    **{f"ssm_{gate}_{part}": f"self_attn.{gate}_{part}_proj" for gate in ("f", "g") for part in ("a", "b")},
    **{f"ssm_conv1d_{part}": f"self_attn.{part}_conv1d" for part in ("q", "k", "v")},
}
_FEED_FORWARD = {f"ffn_{part}": f"feed_forward.{part}_proj" for part in ("gate", "up", "down")}
_HYBRID_HEADS = _EVERY | _FEED_FORWARD | {"ffn_norm": "pre_ff_layernorm"}
_HYBRID_HEADS |= {held: f"mamba.{name}" for held, name in _MAMBA.items()}
_MAMBA_1 = {
    "attn_norm": "norm",
    "ssm_x": "mixer.x_proj",
    "ssm_dt": "mixer.dt_proj",
    **{held: f"mixer.{name}" for held, name in _MAMBA.items() if held != "ssm_norm"},
}
_JAMBA = (
    _EVERY
    | _FEED_FORWARD
    | {"ffn_norm": "pre_ff_layernorm", "ffn_gate_inp": "feed_forward.router"}
    | {f"ffn_{part}_exps": f"feed_forward.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ssm_{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")}
    | {"ssm_in": "mamba.in_proj", "ssm_out": "mamba.out_proj", "ssm_conv1d": "mamba.conv1d"}
    | {"ssm_x": "mamba.x_proj", "ssm_dt": "mamba.dt_proj"}
)
_ELDER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_GRANITE_SHARED = {
    "ffn_gate_shexp": "shared_mlp.input_linear",
    "ffn_up_shexp": "shared_mlp.input_linear",
    "ffn_down_shexp": "shared_mlp.output_linear",
}
GRANITE_4 = "granite 4"
"""Not llama.cpp's name: Granite 4 without recurrent layers has those of its forerunners, and other names on disk."""

BAMBA = "bamba"
"""The same: Bamba is Granite 4 with rotary positions, and other names on disk."""

AXIAL_GLM_4 = "glm 4 of several axes"
"""The same: where positions have several axes, the rows that turn together are half a head apart in files."""

FALCON_TWO_NORMS = "falcon of two norms"
"""The same: what attention and the feed-forward read is normalized apart, under other names on disk."""

_GPT_2 = {
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_FALCON = {
    **{f"attn_{part}": f"self_attention.{name}" for part, name in (("qkv", "query_key_value"), ("output", "dense"))},
    **{f"ffn_{part}": f"mlp.dense_{name}" for part, name in (("up", "h_to_4h"), ("down", "4h_to_h"))},
    "attn_norm_2": "ln_attn",
}
_GRANITE_ALONE = {name.removesuffix("_shexp"): held for name, held in _GRANITE_SHARED.items()}
"""Of Granite 4 without experts: what experts would share is all there is."""

_INDEXER = {
    "indexer.attn_q_b": "self_attn.indexer.wq_b",
    "indexer.attn_k": "self_attn.indexer.wk",
    "indexer.k_norm": "self_attn.indexer.k_norm",
    "indexer.proj": "self_attn.indexer.weights_proj",
}
_LFM2 = {f"attn_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v")} | {
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}
_LFM2_EXPERTS = {
    "ffn_gate_exps": "feed_forward.experts.{}.w1",
    "ffn_down_exps": "feed_forward.experts.{}.w2",
    "ffn_up_exps": "feed_forward.experts.{}.w3",
}
_NEMOTRON = {
    "attn_norm": "norm",
    "attn_output": "mixer.o_proj",
    "ffn_gate_inp": "mixer.gate",
    **{f"attn_{part}": f"mixer.{part}_proj" for part in ("q", "k", "v")},
    **{f"ffn_{part}": f"mixer.{part}_proj" for part in ("up", "down")},
    **{f"ffn_{part}_exps": f"mixer.experts.{{}}.{part}_proj" for part in ("up", "down")},
    **{f"ffn_{part}_shexp": f"mixer.shared_experts.{part}_proj" for part in ("up", "down")},
    **{held: f"mixer.{name}" for held, name in _MAMBA.items()},
}
_OF_LAYERS = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
_TABLES: Mapping[str, Mapping[str, str]] = {
    "llama": _EVERY | _MIXTRAL,
    "apertus": _EVERY | {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"},
    "arcee": _EVERY,
    "smollm3": _EVERY,
    "mistral3": _EVERY,
    "granite": _EVERY,
    "granitemoe": _EVERY | _GRANITE_EXPERTS | {"ffn_gate_inp": "block_sparse_moe.router.layer"} | _GRANITE_SHARED,
    GRANITE_4: _EVERY
    | _GRANITE_EXPERTS
    | {"ffn_gate_inp": "block_sparse_moe.router.layer"}
    | _GRANITE_SHARED
    | _GRANITE_ALONE,
    "llama4": _EVERY
    | {f"ffn_{part}": f"feed_forward.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_exps": f"feed_forward.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_shexp": f"feed_forward.shared_expert.{part}_proj" for part in ("gate", "up", "down")}
    | {"ffn_gate_inp": "feed_forward.router"},
    "gemma": _EVERY,
    "gemma2": _EVERY | _AFTER_ATTENTION | {"ffn_norm": "pre_feedforward_layernorm"},
    "ernie4_5": _EVERY,
    "ernie4_5-moe": _EVERY | _EXPERTS | _SHARED,
    "glm4": _GLM_4,
    AXIAL_GLM_4: _GLM_4,
    "phimoe": _EVERY | _MIXTRAL,
    "phi3": _EVERY | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    "gemma3": _EVERY | _AFTER_ATTENTION | {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3n": _EVERY
    | _AFTER_ATTENTION
    | _OF_LAYERS
    | {
        "ffn_norm": "pre_feedforward_layernorm",
        "altup_correct_coef": "altup.correction_coefs",
        "altup_predict_coef": "altup.prediction_coefs",
        "altup_router": "altup.modality_router",
        "altup_router_norm": "altup.router_norm",
        "laurel_l": "laurel.linear_left",
        "laurel_r": "laurel.linear_right",
        "laurel_post_norm": "laurel.post_laurel_norm",
    },
    "gemma4": _EVERY
    | _AFTER_ATTENTION
    | _OF_LAYERS
    | {
        "ffn_norm": "pre_feedforward_layernorm",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
        "post_ffw_norm_1": "post_feedforward_layernorm_1",
        "post_ffw_norm_2": "post_feedforward_layernorm_2",
        "ffn_gate_inp": "router.proj",
        "ffn_gate_up_exps": "experts.{}.gate_proj",
        "ffn_down_exps": "experts.{}.down_proj",
    },
    "gpt-oss": {k: v for k, v in _EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm", "attn_sinks": "self_attn.sinks"}
    | _EXPERTS
    | {"ffn_gate_inp": "mlp.router"},
    "seed_oss": {k: v for k, v in _EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm"},
    "step35": _EVERY
    | {f"ffn_{part}_exps": f"moe.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_shexp": f"share_expert.{part}_proj" for part in ("gate", "up", "down")}
    | {"ffn_gate_inp": "moe.gate", "attn_gate": "self_attn.g_proj"},
    "bloom": _ELDER | {"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense"},
    "falcon": _FALCON | {"attn_norm": "input_layernorm"},
    FALCON_TWO_NORMS: _FALCON | {"attn_norm": "ln_mlp"},
    "gptneox": _ELDER,
    "mpt": {
        "attn_norm": "norm_1",
        "ffn_norm": "norm_2",
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "ffn_up": "ffn.up_proj",
        "ffn_down": "ffn.down_proj",
    },
    "dbrx": {
        "attn_norm": "norm_attn_norm.norm_1",
        "attn_output_norm": "norm_attn_norm.norm_2",
        "attn_qkv": "norm_attn_norm.attn.Wqkv",
        "attn_output": "norm_attn_norm.attn.out_proj",
        "ffn_gate_inp": "ffn.router.layer",
    },
    "gpt2": _GPT_2,
    "starcoder": _GPT_2,
    "starcoder2": _EVERY | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    "hrm_text": {f"attn_{part}": "attn.gqkv_proj" for part in ("gate", "q", "k", "v")}
    | {f"ffn_{part}": "mlp.gate_up_proj" for part in ("gate", "up")}
    | {"attn_output": "attn.o_proj", "ffn_down": "mlp.down_proj"},
    "hunyuan-dense": _HUNYUAN,
    "hunyuan_vl": _HUNYUAN,
    "minicpm3": _EVERY | _LATENT,
    "command-r": _EVERY,
    "olmo2": _NORMS_AFTER,
    "exaone4": _NORMS_AFTER,
    "exaone-moe": _EVERY | _EXPERTS | _SHARED,
    "dots1": _EVERY | _EXPERTS | _SHARED,
    "afmoe": _EVERY
    | _EXPERTS
    | _SHARED
    | {
        "ffn_norm": "pre_mlp_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        "attn_gate": "self_attn.gate_proj",
        "ffn_gate_inp": "mlp.router.gate",
    },
    "lfm2": _LFM2,
    "lfm2moe": _LFM2 | _LFM2_EXPERTS | {"ffn_gate_inp": "feed_forward.gate"},
    "qwen2vl": _EVERY,
    "qwen3vl": _EVERY,
    "qwen3vlmoe": _EVERY | _EXPERTS,
    "qwen35": _DELTA_NET,
    "qwen35moe": _DELTA_NET | _EXPERTS | _SHARED_EXPERT,
    "qwen2": _EVERY,
    "qwen3": _EVERY,
    "qwen2moe": _EVERY | _EXPERTS | _SHARED_EXPERT,
    "qwen3moe": _EVERY | _EXPERTS,
    "olmoe": _EVERY | _EXPERTS,
    "minimax-m2": _EVERY | _MIXTRAL,
    "glm4moe": {k: v for k, v in _EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm"}
    | _EXPERTS
    | _SHARED,
    "deepseek2": _EVERY | _EXPERTS | _SHARED | _LATENT,
    "deepseek32": _EVERY | _EXPERTS | _SHARED | _LATENT | _INDEXER,
    "deepseek4": {
        "attn_norm": "attn_norm",
        "attn_q_a": "attn.wq_a",
        "attn_q_a_norm": "attn.q_norm",
        "attn_q_b": "attn.wq_b",
        "attn_kv": "attn.wkv",
        "attn_kv_a_norm": "attn.norm",
        "attn_output_a": "attn.wo_a",
        "attn_output_b": "attn.wo_b",
        "indexer.attn_q_b": "attn.indexer.wq_b",
        "indexer.proj": "attn.indexer.weights_proj",
        "ffn_norm": "ffn_norm",
        "ffn_gate_inp": "ffn.gate",
        **{f"ffn_{part}_exps": f"ffn.experts.{{}}.w{n}" for part, n in (("gate", 1), ("down", 2), ("up", 3))},
        **{f"ffn_{part}_shexp": f"ffn.shared_experts.w{n}" for part, n in (("gate", 1), ("down", 2), ("up", 3))},
        **{f"attn_compressor_{part}": f"attn.compressor.{name}" for part, name in _COMPRESSOR.items()},
        **{f"indexer_compressor_{part}": f"attn.indexer.compressor.{name}" for part, name in _COMPRESSOR.items()},
    },
    "glm-dsa": _EVERY | _EXPERTS | _SHARED | _LATENT | _INDEXER,
    "glm5-next": _EVERY | _EXPERTS | _SHARED | _LATENT | _INDEXER | _KIMI_DELTA_NET,
    "mistral4": _EVERY | _EXPERTS | _SHARED | _LATENT | {"ffn_gate_up_exps": "mlp.experts.{}.gate_proj"},
    "cohere2": _EVERY,
    "cohere2moe": _EVERY | _EXPERTS | _SHARED,
    "jais2": _EVERY,
    "olmo": _EVERY,
    "stablelm": _EVERY,
    "phi2": _EVERY | {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
    "mellum": _EVERY | _EXPERTS,
    "chatglm": _EVERY | {"ffn_up": "mlp.gate_up_proj"},
    "paddleocr": _EVERY,
    "nemotron": _EVERY,
    "jamba": _JAMBA,
    "kimi-linear": _EVERY | _MIXTRAL | _SHARED_MIXTRAL | _LATENT | _KIMI_DELTA_NET,
    "mimo2": _EVERY | _EXPERTS,
    "minimax-01": _EVERY
    | _MIXTRAL
    | {"attn_norm_2": "self_attn.norm", "attn_qkv": "self_attn.qkv_proj", "attn_gate": "self_attn.output_gate"},
    "minimax-m3": _EVERY
    | _MIXTRAL
    | _SHARED_MIXTRAL
    | {f"indexer.{part}": f"self_attn.index_{part}" for part in ("q_proj", "k_proj", "q_norm", "k_norm")},
    "hunyuan-moe": _EVERY
    | _EXPERTS
    | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
    | {"ffn_gate_inp": "mlp.gate.wg"}
    | {f"ffn_{part}_shexp": f"mlp.shared_mlp.{part}_proj" for part in ("gate", "up", "down")},
    "hy_v3": _EVERY
    | _EXPERTS
    | {"ffn_gate_inp": "mlp.router.gate"}
    | {f"ffn_{part}_shexp": f"mlp.shared_mlp.{part}_proj" for part in ("gate", "up", "down")},
    "hy_v4": _EVERY | _EXPERTS | _SHARED | _LATENT | _INDEXER | {"attn_gate": "self_attn.linear_gate"},
    "laguna": _EVERY | _EXPERTS | _SHARED_EXPERT | {"attn_gate": "self_attn.g_proj"},
    "granite_swa": _EVERY
    | {"attn_sinks": "self_attn.sinks", "ffn_gate_inp": "block_sparse_moe.router"}
    | {"ffn_gate_up_exps": "block_sparse_moe.experts.{}.gate_proj"}
    | {"ffn_down_exps": "block_sparse_moe.experts.{}.down_proj"}
    | {"ffn_up_shexp": "shared_mlp.input_linear", "ffn_down_shexp": "shared_mlp.output_linear"},
    "granitehybrid": _EVERY
    | _GRANITE_EXPERTS
    | {"ffn_gate_inp": "block_sparse_moe.router.layer"}
    | _GRANITE_SHARED
    | _GRANITE_ALONE
    | {held: f"mamba.{name}" for held, name in _MAMBA.items()},
    BAMBA: _HYBRID_HEADS,
    "falcon-h1": _HYBRID_HEADS,
    "mamba": _MAMBA_1,
    "mamba2": {"attn_norm": "norm"} | {held: f"mixer.{name}" for held, name in _MAMBA.items()},
    "nemotron_h": _NEMOTRON,
    "nemotron_h_moe": _NEMOTRON,
    "qwen4exp": {name: held for name, held in _DELTA_NET.items() if name not in ("attn_norm", "post_attention_norm")}
    | _EXPERTS
    | _SHARED_EXPERT
    | {f"hc_attn_{part}": f"attn_hyper_connection.{name}" for part, name in _CONNECTION.items()}
    | {f"hc_ffn_{part}": f"mlp_hyper_connection.{name}" for part, name in _CONNECTION.items()}
    | {f"indexer.{part}_proj": "self_attn.indexer.index_qk_proj" for part in ("q", "k")}
    | {f"indexer.{part}_norm": f"self_attn.indexer.{part}_layernorm" for part in ("q", "k")}
    | {f"ple_{name}": f"ple.{name}_proj" for name in ("key", "value")}
    | {f"ple_norm_{name}": f"ple.norm_{name}" for name in ("key", "query", "conv")}
    | {"ple_conv1d": "ple.conv1d"},
    "qwen3next": {name: held for name, held in _DELTA_NET.items() if name not in ("ssm_alpha", "ssm_beta")}
    | _EXPERTS
    | _SHARED_EXPERT
    | {"attn_qkv": "linear_attn.in_proj_qkvz", "attn_gate": "linear_attn.in_proj_qkvz"}
    | {"ssm_ba": "linear_attn.in_proj_ba"},
}
_DRAFTING = (
    *("cohere2moe", "deepseek32", "exaone-moe", "glm-dsa", "glm4", "glm4moe", "glm5-next", "hy_v3"),
    *("qwen35", "qwen35moe", "qwen3next", "step35", AXIAL_GLM_4),
)
"""Architectures whose files may have layers of multi-token prediction behind the decoder's."""

_DRAFTS = {
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.embed_tokens": "embed_tokens",
    "nextn.shared_head_head": "shared_head.head",
    "nextn.shared_head_norm": "shared_head.norm",
}
"""What such a layer has beside a decoder layer's tensors."""

LAST_OF_DRAFTS = (
    {"shared_head.norm.": "final_layernorm."},
    {"shared_head.norm.": "transformer.shared_head.norm.", "shared_head.head.": "transformer.shared_head.output."},
)
"""What some sources call the end of such a layer: Hunyuan, StepFun."""

AROUND_DRAFTS = {
    "eh_proj.": "mtp.fc.",
    "enorm.": "mtp.pre_fc_norm_embedding.",
    "hnorm.": "mtp.pre_fc_norm_hidden.",
    "shared_head.norm.": "mtp.norm.",
}
"""Beginnings of these behind "layers.N.", of a source that has its MTP layer in a module of its own (Qwen)."""

_BIASES = {
    "minimax-m2": "block_sparse_moe.e_score_correction_bias",
    "glm4moe": "mlp.gate.e_score_correction_bias",
    "deepseek2": "mlp.gate.e_score_correction_bias",
    "deepseek32": "mlp.gate.e_score_correction_bias",
    "deepseek4": "ffn.gate.bias",
    "glm-dsa": "mlp.gate.e_score_correction_bias",
    "glm5-next": "mlp.gate.e_score_correction_bias",
    "dots1": "mlp.gate.e_score_correction_bias",
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
_BARE = {"attn_sinks.weight": "self_attn.sinks", "ssm_a": "{}.A_log", "ssm_d": "{}.D", "ssm_dt.bias": "{}.dt_bias"}
"""Tensors of a block that are no weight or bias of a module on disk."""

_STREAMS = {
    f"hc_{block}_{part}.weight": f"hc_{block}_{part}" for block in ("attn", "ffn") for part in ("fn", "base", "scale")
}
"""What mixes the streams of hidden states around attention and feed-forward."""

_ALONE: Mapping[str, Mapping[str, str]] = {
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


_MIXERS = {
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

_AS_MATRICES = ("nemotron_h", "nemotron_h_moe", "granitehybrid", BAMBA, "falcon-h1", "mamba2")
"""Architectures whose files hold vectors of a mixer as matrices."""

_BACKBONE = {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "layers": "backbone.layers"}
_FINAL = {"output_norm": "model.final_layernorm"}
_GPT = {"token_embd": "transformer.wte", "output_norm": "transformer.ln_f", "layers": "transformer.h"}
_ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    BAMBA: _FINAL,
    "falcon-h1": _FINAL,
    "jamba": _FINAL,
    "mamba": _BACKBONE,
    "mamba2": _BACKBONE,
    "nemotron_h": _BACKBONE,
    "nemotron_h_moe": _BACKBONE,
    "deepseek4": {"output": "head"},
    "qwen4exp": {f"output_hc_{part}": f"model.hyper_connection_mixer.{name}" for part, name in _CONNECTION.items()},
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
_IN_PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "granitemoe": (_SHARED_PARTS,),
    **dict.fromkeys((GRANITE_4, "granitehybrid"), (_SHARED_PARTS, _DENSE_PARTS)),
    "hrm_text": (("attn_gate", "attn_q", "attn_k", "attn_v"), _DENSE_PARTS),
    "qwen3next": (("attn_qkv", "attn_gate"),),
    "qwen4exp": (("indexer.q_proj", "indexer.k_proj"),),
}
"""Parts of one matrix on disk, one behind the other."""

_LATENT_ARCHITECTURES = ("deepseek2", "deepseek32", "glm-dsa", "glm5-next", "hy_v4", "kimi-linear", "mistral4")

ARCHITECTURES = tuple(_TABLES)
COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that no checkpoint holds."""

PAIRED_ROPE = (
    *("llama", "arcee", "smollm3", "mistral3", "granite", "granitemoe", "granite_swa", "granitehybrid", "olmo"),
    *("nemotron_h", "nemotron_h_moe", GRANITE_4, BAMBA),
)
"""Architectures whose q and k rows llama.cpp takes interleaved: row 2i + j of a head is row i + j * D/2 on disk."""

_ONE_PLUS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    (
        *("gemma", "gemma2", "gemma3", "minimax-m3", "nemotron"),
        *("qwen35", "qwen35moe", "qwen3next", "step35"),
    ),
    ("norm",),
) | {"qwen4exp": ("norm", "ple_norm_key", "ple_norm_query", "ple_norm_conv")}
"""Architectures that hold norms with the one that the model adds to them: the ends of their names."""

_DELTA_NETS = ("qwen35", "qwen35moe", "qwen4exp")
"""Architectures whose delta nets' values llama.cpp takes key by key: those of a key lie together on disk."""

_HEAD_BY_HEAD = ("bloom", "falcon", FALCON_TWO_NORMS, "gptneox")
"""Architectures whose queries, keys and values of a head lie together on disk, and those of all heads in files."""

_TURNED = {"gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "dbrx": ("ffn_down_exps",)}
"""Matrices that the disk has as [in, out]."""

_ROWS_OF_EXPERTS = {"dbrx": ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")}
"""Stacks that the disk has as one matrix, an expert's rows behind the other's."""

_OF_VALUES = {"attn_gate", "ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt"}
_BEHIND_KEYS = {"attn_qkv", "ssm_conv1d"}

_TABLE_PART = re.compile(r"per_layer_token_embd\.(\d+)\.weight")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+?)(?:\.(weight|bias))?")


@dataclass(frozen=True)
class Place:
    """name: on disk, with {} for the expert where `stacked`. half: "k" or "v" of a split kv_b_proj, or which part it
    is of another matrix's rows, from "0" on. also: a matrix of as many rows behind that of `name`. flat: whether the
    file has a vector of the disk as a matrix. rope: whether rows are interleaved, or, apart, the other way round.
    change: what llama.cpp's values are of those on disk: "" the same, "plus one", "minus exp". tiles: where the
    values of a delta net's heads lie in another order: "rows", "rows behind keys", "columns" or ""; "heads": queries,
    keys and values do. convolution: whether the dimension of one channel is left out; several: whether one is put
    before it. turned: whether rows are columns on disk. joined: whether matrices of a stack are one below the other
    there."""

    name: str
    stacked: bool = False
    half: str = ""
    rope: bool = False
    change: str = ""
    tiles: str = ""
    convolution: bool = False
    also: str = ""
    flat: bool = False
    apart: bool = False
    several: bool = False
    turned: bool = False
    joined: bool = False


def place_of(arch: str, name: str) -> Place | None:
    """None for a name that the architecture does not have."""
    stem, _, kind = name.rpartition(".")
    if name in _ALONE.get(arch, {}):
        return Place(_ALONE[arch][name], "{}" in _ALONE[arch][name])
    elsewhere = _ELSEWHERE.get(arch, {})
    if arch == "qwen4exp" and (of_table := _TABLE_PART.fullmatch(name)):
        return Place(f"model.ngram_embedding.shard_{of_table[1]}.weight")
    outside = {**_OUTSIDE, **elsewhere}.get(stem)
    if outside is not None and kind in ("weight", "bias"):
        change = "plus one" if kind == "weight" and stem.endswith(_ONE_PLUS.get(arch, ("?",))) else ""
        return Place(f"{outside}.{kind}", change=change)
    found = _BLOCK.fullmatch(name)
    if not found:
        return None
    layer, part, kind = found.groups()
    prefix = f"{elsewhere.get('layers', 'model.layers')}.{layer}."
    if part == "exp_probs_b":
        known = arch in _BIASES and kind == (None if arch == "hy_v3" else "bias")
        return Place(prefix + _BIASES[arch]) if known else None
    if arch in _LATENT_ARCHITECTURES and part in ("attn_k_b", "attn_v_b"):
        return Place(f"{prefix}self_attn.kv_b_proj.weight", half=part[5])
    alone = _ALONE.get(arch, {}).get(name.split(".", 2)[2])
    if alone is not None:
        joined = part in _ROWS_OF_EXPERTS.get(arch, ())
        return Place(prefix + alone, joined=joined, turned=part in _TURNED.get(arch, ()))
    bare = None if part in _TABLES.get(arch, {}) and part != "attn_sinks" else _BARE.get(name.split(".", 2)[2])
    tiles = _tiles(part) if arch in _DELTA_NETS else ""
    if arch in _HEAD_BY_HEAD and part == "attn_qkv":
        tiles = "heads"
    if bare is not None:
        mixer = _MIXERS.get(arch, "linear_attn" if arch in (*_DELTA_NETS, "qwen3next") else "")
        held = part in _TABLES.get(arch, {}) if part == "attn_sinks" else bool(mixer)
        change, flat = "minus exp" if part == "ssm_a" else "", arch in _AS_MATRICES
        return Place(prefix + bare.format(mixer), change=change, tiles=tiles, flat=flat) if held else None
    known_name = _TABLES.get(arch, {}).get(part) or (_DRAFTS.get(part) if arch in _DRAFTING else None)
    if known_name is None or kind is None:
        return None
    one_plus = kind == "weight" and part != "ssm_norm" and part.endswith(_ONE_PLUS.get(arch, ("?",)))
    half = next((str(parts.index(part)) for parts in _IN_PARTS.get(arch, ()) if part in parts), "")
    whole = f"{prefix}{known_name}.{kind}"
    return Place(
        whole,
        "{}" in known_name,
        half=half,
        rope=arch in (*PAIRED_ROPE, AXIAL_GLM_4) and part in ("attn_q", "attn_k"),
        apart=arch == AXIAL_GLM_4,
        change="plus one" if one_plus else "",
        tiles=tiles,
        convolution=part in ("ssm_conv1d", "shortconv.conv", "ple_conv1d") and kind == "weight",
        several=part.startswith("ssm_conv1d_"),
        turned=kind == "weight" and part in _TURNED.get(arch, ()),
        also=whole.replace("gate_proj", "up_proj") if part == "ffn_gate_up_exps" else "",
        flat=arch in _AS_MATRICES and part == "ssm_norm",
    )


def _tiles(part: str) -> str:
    if part == "ssm_out":
        return "columns"
    return "rows behind keys" if part in _BEHIND_KEYS else "rows" if part in _OF_VALUES else ""
