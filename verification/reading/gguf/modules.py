"""What modules that several architectures share are called: in GGUF files within a block -> on disk within a layer.

Stated from the architectures' tables in llama.cpp (src/llama-arch.cpp) and from transformers' modules. "{}" stands for
the number of an expert.
"""

EVERY = {
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
GLM_4 = EVERY | {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
SHARED = {f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")}
SHARED_MIXTRAL = {
    f"ffn_{part}_shexp": f"block_sparse_moe.shared_experts.{part}_proj" for part in ("gate", "up", "down")
}
LATENT = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
HUNYUAN = EVERY | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
AFTER_ATTENTION = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
NORMS_AFTER = {k: v for k, v in EVERY.items() if k not in ("attn_norm", "ffn_norm")} | AFTER_ATTENTION
SHARED_EXPERT = {f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")} | {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate"
}
GRANITE_EXPERTS = {f"ffn_{part}_exps": f"block_sparse_moe.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
DELTA_NET = {k: v for k, v in EVERY.items() if k != "ffn_norm"} | {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
CONNECTION = {
    "norm": "hc_norm",
    "down": "input_mix_weight_down",
    "up": "input_mix_weight_up",
    "inject": "block_inject_weight",
}
COMPRESSOR = {"kv": "wkv", "gate": "wgate", "norm": "norm"}
MAMBA = {"ssm_in": "in_proj", "ssm_out": "out_proj", "ssm_conv1d": "conv1d", "ssm_norm": "norm"}
KIMI_DELTA_NET = {
    "ssm_beta": "self_attn.b_proj",
    "ssm_norm": "self_attn.o_norm",
    **{f"ssm_{gate}_{part}": f"self_attn.{gate}_{part}_proj" for gate in ("f", "g") for part in ("a", "b")},
    **{f"ssm_conv1d_{part}": f"self_attn.{part}_conv1d" for part in ("q", "k", "v")},
}
FEED_FORWARD = {f"ffn_{part}": f"feed_forward.{part}_proj" for part in ("gate", "up", "down")}
HYBRID_HEADS = EVERY | FEED_FORWARD | {"ffn_norm": "pre_ff_layernorm"}
HYBRID_HEADS |= {held: f"mamba.{name}" for held, name in MAMBA.items()}
MAMBA_1 = {
    "attn_norm": "norm",
    "ssm_x": "mixer.x_proj",
    "ssm_dt": "mixer.dt_proj",
    **{held: f"mixer.{name}" for held, name in MAMBA.items() if held != "ssm_norm"},
}
JAMBA = (
    EVERY
    | FEED_FORWARD
    | {"ffn_norm": "pre_ff_layernorm", "ffn_gate_inp": "feed_forward.router"}
    | {f"ffn_{part}_exps": f"feed_forward.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")}
    | {f"ssm_{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")}
    | {"ssm_in": "mamba.in_proj", "ssm_out": "mamba.out_proj", "ssm_conv1d": "mamba.conv1d"}
    | {"ssm_x": "mamba.x_proj", "ssm_dt": "mamba.dt_proj"}
)
ELDER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
GRANITE_SHARED = {
    "ffn_gate_shexp": "shared_mlp.input_linear",
    "ffn_up_shexp": "shared_mlp.input_linear",
    "ffn_down_shexp": "shared_mlp.output_linear",
}

GPT_2 = {
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
FALCON = {
    **{f"attn_{part}": f"self_attention.{name}" for part, name in (("qkv", "query_key_value"), ("output", "dense"))},
    **{f"ffn_{part}": f"mlp.dense_{name}" for part, name in (("up", "h_to_4h"), ("down", "4h_to_h"))},
    "attn_norm_2": "ln_attn",
}
GRANITE_ALONE = {name.removesuffix("_shexp"): held for name, held in GRANITE_SHARED.items()}
"""Of Granite 4 without experts: what experts would share is all there is."""

INDEXER = {
    "indexer.attn_q_b": "self_attn.indexer.wq_b",
    "indexer.attn_k": "self_attn.indexer.wk",
    "indexer.k_norm": "self_attn.indexer.k_norm",
    "indexer.proj": "self_attn.indexer.weights_proj",
}
LFM2 = {f"attn_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v")} | {
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
LFM2_EXPERTS = {
    "ffn_gate_exps": "feed_forward.experts.{}.w1",
    "ffn_down_exps": "feed_forward.experts.{}.w2",
    "ffn_up_exps": "feed_forward.experts.{}.w3",
}
NEMOTRON = {
    "ffn_latent_down": "mixer.fc1_latent_proj",
    "ffn_latent_up": "mixer.fc2_latent_proj",
    "post_attention_norm": "post_attention_layernorm",
    "attn_norm": "norm",
    "attn_output": "mixer.o_proj",
    "ffn_gate_inp": "mixer.gate",
    **{f"attn_{part}": f"mixer.{part}_proj" for part in ("q", "k", "v")},
    **{f"ffn_{part}": f"mixer.{part}_proj" for part in ("up", "down")},
    **{f"ffn_{part}_exps": f"mixer.experts.{{}}.{part}_proj" for part in ("up", "down")},
    **{f"ffn_{part}_shexp": f"mixer.shared_experts.{part}_proj" for part in ("up", "down")},
    **{held: f"mixer.{name}" for held, name in MAMBA.items()},
}
OF_LAYERS = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
