"""What the tensors of a block are called on disk, of each architecture of which by_library.py cannot tell.

Stated from the architectures' tables in llama.cpp (src/llama-arch.cpp) and from transformers' modules. llama.cpp stacks
the experts of a layer; of each stacked tensor, row block N is expert N.
"""

from collections.abc import Mapping

from verification.reading.gguf.modules import (
    AFTER_ATTENTION,
    COMPRESSOR,
    CONNECTION,
    DELTA_NET,
    ELDER,
    EVERY,
    EXPERTS,
    FALCON,
    GLM_4,
    GPT_2,
    GRANITE_ALONE,
    GRANITE_EXPERTS,
    GRANITE_SHARED,
    HUNYUAN,
    HYBRID_HEADS,
    INDEXER,
    JAMBA,
    KIMI_DELTA_NET,
    LATENT,
    LFM2,
    LFM2_EXPERTS,
    MAMBA,
    MAMBA_1,
    MIXTRAL,
    NEMOTRON,
    NORMS_AFTER,
    OF_LAYERS,
    SHARED,
    SHARED_EXPERT,
    SHARED_MIXTRAL,
)

GRANITE_4 = "granite 4"
"""Not llama.cpp's name: Granite 4 without recurrent layers has those of its forerunners, and other names on disk."""

BAMBA = "bamba"
"""The same: Bamba is Granite 4 with rotary positions, and other names on disk."""

AXIAL_GLM_4 = "glm 4 of several axes"
"""The same: where positions have several axes, the rows that turn together are half a head apart in files."""

FALCON_TWO_NORMS = "falcon of two norms"
"""The same: what attention and the feed-forward read is normalized apart, under other names on disk."""

TABLES: Mapping[str, Mapping[str, str]] = {
    "llama": EVERY | MIXTRAL,
    "apertus": EVERY | {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"},
    "mistral3": EVERY,
    "granite": EVERY,
    "granitemoe": EVERY | GRANITE_EXPERTS | {"ffn_gate_inp": "block_sparse_moe.router.layer"} | GRANITE_SHARED,
    GRANITE_4: EVERY
    | GRANITE_EXPERTS
    | {"ffn_gate_inp": "block_sparse_moe.router.layer"}
    | GRANITE_SHARED
    | GRANITE_ALONE,
    "llama4": EVERY
    | {f"ffn_{part}": f"feed_forward.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_exps": f"feed_forward.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_shexp": f"feed_forward.shared_expert.{part}_proj" for part in ("gate", "up", "down")}
    | {"ffn_gate_inp": "feed_forward.router"},
    "gemma2": EVERY | AFTER_ATTENTION | {"ffn_norm": "pre_feedforward_layernorm"},
    "ernie4_5": EVERY,
    "ernie4_5-moe": EVERY | EXPERTS | SHARED,
    "glm4": GLM_4,
    AXIAL_GLM_4: GLM_4,
    "phimoe": EVERY | MIXTRAL,
    "phi3": EVERY | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    "gemma3": EVERY | AFTER_ATTENTION | {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3n": EVERY
    | AFTER_ATTENTION
    | OF_LAYERS
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
    "gemma4": EVERY
    | AFTER_ATTENTION
    | OF_LAYERS
    | {
        "ffn_norm": "pre_feedforward_layernorm",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
        "post_ffw_norm_1": "post_feedforward_layernorm_1",
        "post_ffw_norm_2": "post_feedforward_layernorm_2",
        "ffn_gate_inp": "router.proj",
        "ffn_gate_up_exps": "experts.{}.gate_proj",
        "ffn_down_exps": "experts.{}.down_proj",
    },
    "gpt-oss": {k: v for k, v in EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm", "attn_sinks": "self_attn.sinks"}
    | EXPERTS
    | {"ffn_gate_inp": "mlp.router"},
    "step35": EVERY
    | {f"ffn_{part}_exps": f"moe.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ffn_{part}_shexp": f"share_expert.{part}_proj" for part in ("gate", "up", "down")}
    | {"ffn_gate_inp": "moe.gate", "attn_gate": "self_attn.g_proj"},
    "bloom": ELDER | {"attn_qkv": "self_attention.query_key_value", "attn_output": "self_attention.dense"},
    "falcon": FALCON | {"attn_norm": "input_layernorm"},
    FALCON_TWO_NORMS: FALCON | {"attn_norm": "ln_mlp"},
    "gptneox": ELDER,
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
    "gpt2": GPT_2,
    "starcoder": GPT_2,
    "starcoder2": EVERY | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    "hrm_text": {f"attn_{part}": "attn.gqkv_proj" for part in ("gate", "q", "k", "v")}
    | {f"ffn_{part}": "mlp.gate_up_proj" for part in ("gate", "up")}
    | {"attn_output": "attn.o_proj", "ffn_down": "mlp.down_proj"},
    "hunyuan-dense": HUNYUAN,
    "hunyuan_vl": HUNYUAN,
    "minicpm3": EVERY | LATENT,
    "command-r": EVERY,
    "olmo2": NORMS_AFTER,
    "exaone4": NORMS_AFTER,
    "exaone-moe": EVERY | EXPERTS | SHARED,
    "afmoe": EVERY
    | EXPERTS
    | SHARED
    | {
        "ffn_norm": "pre_mlp_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        "attn_gate": "self_attn.gate_proj",
        "ffn_gate_inp": "mlp.router.gate",
    },
    "lfm2": LFM2,
    "lfm2moe": LFM2 | LFM2_EXPERTS | {"ffn_gate_inp": "feed_forward.gate"},
    "qwen2vl": EVERY,
    "qwen3vl": EVERY,
    "qwen3vlmoe": EVERY | EXPERTS,
    "qwen35": DELTA_NET,
    "qwen35moe": DELTA_NET | EXPERTS | SHARED_EXPERT,
    "qwen2": EVERY,
    "qwen3": EVERY,
    "qwen2moe": EVERY | EXPERTS | SHARED_EXPERT,
    "qwen3moe": EVERY | EXPERTS,
    "olmoe": EVERY | EXPERTS,
    "minimax-m2": EVERY | MIXTRAL,
    "glm4moe": {k: v for k, v in EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm"}
    | EXPERTS
    | SHARED,
    "deepseek2": EVERY | EXPERTS | SHARED | LATENT,
    "deepseek32": EVERY | EXPERTS | SHARED | LATENT | INDEXER,
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
        **{f"attn_compressor_{part}": f"attn.compressor.{name}" for part, name in COMPRESSOR.items()},
        **{f"indexer_compressor_{part}": f"attn.indexer.compressor.{name}" for part, name in COMPRESSOR.items()},
    },
    "glm-dsa": EVERY | EXPERTS | SHARED | LATENT | INDEXER,
    "glm5-next": EVERY | EXPERTS | SHARED | LATENT | INDEXER | KIMI_DELTA_NET,
    "mistral4": EVERY | EXPERTS | SHARED | LATENT | {"ffn_gate_up_exps": "mlp.experts.{}.gate_proj"},
    "cohere2": EVERY,
    "cohere2moe": EVERY | EXPERTS | SHARED,
    "jais2": EVERY,
    "olmo": EVERY,
    "stablelm": EVERY,
    "phi2": EVERY | {"attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"},
    "mellum": EVERY | EXPERTS,
    "chatglm": EVERY | {"ffn_up": "mlp.gate_up_proj"},
    "paddleocr": EVERY,
    "nemotron": EVERY,
    "jamba": JAMBA,
    "kimi-linear": EVERY | MIXTRAL | SHARED_MIXTRAL | LATENT | KIMI_DELTA_NET,
    "mimo2": EVERY | EXPERTS,
    "minimax-01": EVERY
    | MIXTRAL
    | {"attn_norm_2": "self_attn.norm", "attn_qkv": "self_attn.qkv_proj", "attn_gate": "self_attn.output_gate"},
    "minimax-m3": EVERY
    | MIXTRAL
    | SHARED_MIXTRAL
    | {f"indexer.{part}": f"self_attn.index_{part}" for part in ("q_proj", "k_proj", "q_norm", "k_norm")},
    "hunyuan-moe": EVERY
    | EXPERTS
    | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
    | {"ffn_gate_inp": "mlp.gate.wg"}
    | {f"ffn_{part}_shexp": f"mlp.shared_mlp.{part}_proj" for part in ("gate", "up", "down")},
    "hy_v3": EVERY
    | EXPERTS
    | {"ffn_gate_inp": "mlp.router.gate"}
    | {f"ffn_{part}_shexp": f"mlp.shared_mlp.{part}_proj" for part in ("gate", "up", "down")},
    "hy_v4": EVERY | EXPERTS | SHARED | LATENT | INDEXER | {"attn_gate": "self_attn.linear_gate"},
    "laguna": EVERY | EXPERTS | SHARED_EXPERT | {"attn_gate": "self_attn.g_proj"},
    "granite_swa": EVERY
    | {"attn_sinks": "self_attn.sinks", "ffn_gate_inp": "block_sparse_moe.router"}
    | {"ffn_gate_up_exps": "block_sparse_moe.experts.{}.gate_proj"}
    | {"ffn_down_exps": "block_sparse_moe.experts.{}.down_proj"}
    | {"ffn_up_shexp": "shared_mlp.input_linear", "ffn_down_shexp": "shared_mlp.output_linear"},
    "granitehybrid": EVERY
    | GRANITE_EXPERTS
    | {"ffn_gate_inp": "block_sparse_moe.router.layer"}
    | GRANITE_SHARED
    | GRANITE_ALONE
    | {held: f"mamba.{name}" for held, name in MAMBA.items()},
    BAMBA: HYBRID_HEADS,
    "falcon-h1": HYBRID_HEADS,
    "mamba": MAMBA_1,
    "mamba2": {"attn_norm": "norm"} | {held: f"mixer.{name}" for held, name in MAMBA.items()},
    "nemotron_h": NEMOTRON,
    "nemotron_h_moe": NEMOTRON,
    "qwen4exp": {name: held for name, held in DELTA_NET.items() if name not in ("attn_norm", "post_attention_norm")}
    | EXPERTS
    | SHARED_EXPERT
    | {f"hc_attn_{part}": f"attn_hyper_connection.{name}" for part, name in CONNECTION.items()}
    | {f"hc_ffn_{part}": f"mlp_hyper_connection.{name}" for part, name in CONNECTION.items()}
    | {f"indexer.{part}_proj": "self_attn.indexer.index_qk_proj" for part in ("q", "k")}
    | {f"indexer.{part}_norm": f"self_attn.indexer.{part}_layernorm" for part in ("q", "k")}
    | {f"ple_{name}": f"ple.{name}_proj" for name in ("key", "value")}
    | {f"ple_norm_{name}": f"ple.norm_{name}" for name in ("key", "query", "conv")}
    | {"ple_conv1d": "ple.conv1d"},
    "qwen3next": {name: held for name, held in DELTA_NET.items() if name not in ("ssm_alpha", "ssm_beta")}
    | EXPERTS
    | SHARED_EXPERT
    | {"attn_qkv": "linear_attn.in_proj_qkvz", "attn_gate": "linear_attn.in_proj_qkvz"}
    | {"ssm_ba": "linear_attn.in_proj_ba"},
}
DRAFTING = (
    *("cohere2moe", "deepseek32", "exaone-moe", "glm-dsa", "glm4", "glm4moe", "glm5-next", "hy_v3"),
    *("nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next", "step35", AXIAL_GLM_4),
)
"""Architectures whose files may have layers of multi-token prediction behind the decoder's."""

DRAFTS = {
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

SECOND_OF_DRAFTS = {
    "post_attention_layernorm.": "norm.",
    "shared_head.norm.": "final_layernorm.",
    **{name: name for name in ("mixer.gate.", "mixer.experts.", "mixer.shared_experts.", "mixer.fc")},
}
"""What the second of two layers has, of a source that has attention and experts of such a layer apart (Nemotron)."""

AROUND_DRAFTS = {
    "eh_proj.": "mtp.fc.",
    "enorm.": "mtp.pre_fc_norm_embedding.",
    "hnorm.": "mtp.pre_fc_norm_hidden.",
    "shared_head.norm.": "mtp.norm.",
}
"""Beginnings of these behind "layers.N.", of a source that has its MTP layer in a module of its own (Qwen)."""
