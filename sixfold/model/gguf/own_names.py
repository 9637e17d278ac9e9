"""Names of tensors that gguf-py's table lacks, or calls otherwise than llama.cpp's converter."""

from collections.abc import Mapping

RENAMED: tuple[tuple[str, str], ...] = (
    (r"^(model\.language_model|language_model\.model|model\.text_model)\.", "model."),
    (r"^model\.(blocks|encoder\.layers)\.", "model.layers."),
    (r"^model\.(altup(?:_unembed)?_projections)\.\d+\.", r"model.\1."),
    (r"^model\.layers\.\d+\.ple\.ple_embedding\.ngram_embedding\.shard_\d+\.", "model.ngram_embedding."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(?=h\.\d+\.(ln_|attn\.|mlp\.)|w[tp]e\.|ln_f\.)", "transformer."),
    (r"^transformer\.(?=h\.\d+\.post_attention_layernorm|word_embeddings_layernorm)", ""),
    (r"\.e_score_correction_bias$", ".e_score_correction.bias"),
    (r"\.expert_bias$", ".expert_bias.bias"),
    (r"\.sinks$", ".sinks.weight"),
    (r"\.dt_bias$", ".dt_proj.bias"),
    (r"\.experts\.\d+\.", ".experts."),
    (r"\.block_sparse_moe\.experts\.(gate|up|down)_proj\.", r".mlp.experts.\1_proj."),
    (r"\.experts\.mlp\.(w1|v1|w2)$", r".experts.mlp.\1.weight"),
)
"""What gguf-py's table calls otherwise than checkpoints do."""

_FUSED_EXPERTS = {
    "experts.gate_proj.weight": "ffn_gate_up_exps.weight",
    "experts.up_proj.weight": "ffn_gate_up_exps.weight",
}
_PARTS = ("gate", "up", "down")
_INDEXED = ("q_proj", "k_proj", "q_norm", "k_norm")
_DENSE_IN_MOE = {f"block_sparse_moe.{part}_proj.weight": f"ffn_{part}.weight" for part in _PARTS}
"""Layers without experts as transformers saves them; as published they are an mlp."""

_STREAM_MIXERS = {
    f"hc_{block}_{part}": f"hc_{block}_{part}.weight" for block in ("attn", "ffn") for part in ("fn", "base", "scale")
}
_INDEXER = {
    "wq_b.weight": "attn_q_b.weight",
    "wk.weight": "attn_k.weight",
    "k_norm.weight": "k_norm.weight",
    "k_norm.bias": "k_norm.bias",
    "weights_proj.weight": "proj.weight",
}
_BY_NUMBER = ((1, "gate"), (2, "down"), (3, "up"))
_EXPERTS = (("experts", "exps"), ("shared_experts", "shexp"))
_LATENT = {
    "wq_a": "attn_q_a",
    "q_norm": "attn_q_a_norm",
    "wq_b": "attn_q_b",
    "wkv": "attn_kv",
    "norm": "attn_kv_a_norm",
    "wo_a": "attn_output_a",
    "wo_b": "attn_output_b",
}
_COMPRESSOR = {"ape": "ape", "norm.weight": "norm", "wgate.weight": "gate", "wkv.weight": "kv"}
_CONNECTION = {"hc_norm": "norm", "input_mix_weight_down": "down", "input_mix_weight_up": "up"}
GRANITE_SHARED = {
    "shared_mlp.input_linear.weight": "ffn_gate_shexp+ffn_up_shexp.weight",
    "shared_mlp.output_linear.weight": "ffn_down_shexp.weight",
}
OWN_NAMES: Mapping[str, Mapping[str, str]] = {
    "granite_swa": {
        **{f"block_sparse_moe.{name}": held for name, held in _FUSED_EXPERTS.items()},
        "block_sparse_moe.experts.down_proj.weight": "ffn_down_exps.weight",
        "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
        "shared_mlp.input_linear.weight": "ffn_up_shexp.weight",
        "shared_mlp.output_linear.weight": "ffn_down_shexp.weight",
    },
    "granite": GRANITE_SHARED,
    "granitemoe": GRANITE_SHARED,
    "granitehybrid": GRANITE_SHARED,
    "gemma3n": {"altup.correct_output_scale": "altup_correct_scale.weight"},
    "gemma4": {
        **_FUSED_EXPERTS,
        "experts.down_proj.weight": "ffn_down_exps.weight",
        "layer_scalar": "layer_output_scale.weight",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
    },
    "deepseek4": {
        **_STREAM_MIXERS,
        **{f"attn.{name}.weight": f"{held}.weight" for name, held in _LATENT.items()},
        **{
            f"attn.{module}compressor.{name}": f"{held}_compressor_{part}.weight"
            for module, held in (("", "attn"), ("indexer.", "indexer"))
            for name, part in _COMPRESSOR.items()
        },
        **{f"ffn.{kind}.w{n}.weight": f"ffn_{part}_{held}.weight" for n, part in _BY_NUMBER for kind, held in _EXPERTS},
        "attn.attn_sink": "attn_sinks.weight",
        "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
        "attn.indexer.weights_proj.weight": "indexer.proj.weight",
        "attn_norm.weight": "attn_norm.weight",
        "ffn_norm.weight": "ffn_norm.weight",
        "ffn.gate.weight": "ffn_gate_inp.weight",
        "ffn.gate.bias": "exp_probs_b.bias",
        "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
        "attn.kv_norm.weight": "attn_kv_a_norm.weight",
        "embed.weight": "token_embd.weight",
        "norm.weight": "output_norm.weight",
        "head.weight": "output.weight",
        **{
            f"{head}_{part}": f"output_hc_{part}.weight"
            for head in ("hc_head", "model.hc_head.hc")  # as published, and as transformers saves it
            for part in ("fn", "base", "scale")
        },
    },
    "glm5-next": {
        **_STREAM_MIXERS,
        **{f"self_attn.indexer.{name}": f"indexer.{held}" for name, held in _INDEXER.items()},
        **{
            f"self_attn.indexer.index_kpool_compress_{part}": f"indexer_compressor_{part}.weight"
            for part in ("ape", "gate")
        },
    },
    "hrm_text": {
        "attn.gqkv_proj.weight": "attn_gate+attn_q+attn_k+attn_v.weight",
        "attn.o_proj.weight": "attn_output.weight",
        "mlp.gate_up_proj.weight": "ffn_gate+ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
        "model.z_L_init": "hrm.z_l_init",
    },
    "hy_v3": {"mlp.expert_bias": "exp_probs_b"},
    "hy_v4": {  # as published, and as transformers saves them
        **{
            name: f"hc_{held}_{part}.weight"
            for layer, held in (("hc_attn_layer", "attn"), ("hc_mlp_layer", "ffn"))
            for part in ("fn", "base", "scale")
            for name in (f"{layer}.hc_pre.hc_{part}", f"hc_pre.{layer}.hc_{part}")
        },
        **{
            f"model.{within}hc_head.hc_head_{part}": f"output_hc_{part}.weight"
            for within in ("", "hc_pre.")
            for part in ("fn", "base", "scale")
        },
        **{f"self_attn.indexer.{name}": f"indexer.{held}" for name, held in _INDEXER.items()},
        "self_attn.learnable_sink_param": "attn_sinks.weight",
        "self_attn.linear_gate.weight": "attn_gate.weight",
        "mlp.linear_gate.weight": "ffn_gate.weight",
        "mlp.shared_experts.linear_gate.weight": "ffn_gate_shexp.weight",
    },
    "jamba": {f"feed_forward.experts.{part}_proj.weight": f"ffn_{part}_exps.weight" for part in _PARTS},
    "kimi-linear": _DENSE_IN_MOE,
    "laguna": {
        "self_attn.g_proj.weight": "attn_gate.weight",
        "mlp.experts.e_score_correction_bias": "exp_probs_b.bias",
    },
    "lfm2moe": {f"feed_forward.experts.w{n}.weight": f"ffn_{part}_exps.weight" for n, part in _BY_NUMBER},
    "minimax-01": {
        "self_attn.norm.weight": "attn_norm_2.weight",
        "self_attn.qkv_proj.weight": "attn_qkv.weight",
        "self_attn.output_gate.weight": "attn_gate.weight",
        "self_attn.out_proj.weight": "attn_output.weight",
    },
    "minimax-m3": {
        **{f"block_sparse_moe.shared_experts.{part}_proj.weight": f"ffn_{part}_shexp.weight" for part in _PARTS},
        **_DENSE_IN_MOE,
        **{f"mlp.{part}_proj.weight": f"ffn_{part}.weight" for part in _PARTS},
        **{f"self_attn.index_{part}.weight": f"indexer.{part}.weight" for part in _INDEXED},
    },
    "mimo2": {"self_attn.attention_sink_bias": "attn_sinks.weight"},
    "mistral4": {f"mlp.{name}": held for name, held in _FUSED_EXPERTS.items()},
    "nemotron_h_moe": {
        **{f"mixer.experts.{part}_proj.weight": f"ffn_{part}_exps.weight" for part in ("up", "down")},
        "post_attention_layernorm.weight": "post_attention_norm.weight",  # of MTP layers
    },
    "qwen4exp": {
        "model.ngram_embedding.weight": "per_layer_token_embd.weight",
        **{f"ple.{name}_proj.weight": f"ple_{name}.weight" for name in ("key", "value")},
        **{f"ple.norm_{name}.weight": f"ple_norm_{name}.weight" for name in ("key", "query", "conv")},
        "ple.conv1d.weight": "ple_conv1d.weight",
        **{
            f"{block}_hyper_connection.{name}.weight": f"hc_{held}_{part}.weight"
            for block, held in (("attn", "attn"), ("mlp", "ffn"))
            for name, part in {**_CONNECTION, "block_inject_weight": "inject"}.items()
        },
        **{
            f"model.hyper_connection_mixer.{name}.weight": f"output_hc_{part}.weight"
            for name, part in _CONNECTION.items()
        },
        "self_attn.indexer.index_qk_proj.weight": "indexer.q_proj+indexer.k_proj.weight",
        "self_attn.indexer.q_layernorm.weight": "indexer.q_norm.weight",
        "self_attn.indexer.k_layernorm.weight": "indexer.k_norm.weight",
    },
    "step35": {
        **{f"moe.experts.{part}_proj.weight": f"ffn_{part}_exps.weight" for part in _PARTS},
        "moe.router_bias": "exp_probs_b.bias",
    },
    "qwen3next": {"linear_attn.in_proj_qkvz.weight": "attn_qkv+attn_gate.weight"},
}
"""Architecture -> what comes behind "layers.N." (experts without their number) -> behind "blk.N."; outside of layers,
the whole name; "a+b" where the file holds the rows of one tensor in two, or more. What gguf-py's table lacks, or calls
otherwise than llama.cpp's converter."""

AS_KEYS: Mapping[str, Mapping[str, str]] = {
    "apertus": {f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")},
    "qwen4exp": {
        f"ple.ple_embedding.{name}": f"qwen4exp.ple.{key}"
        for name, key in (
            ("layer_multipliers", "layer_multipliers"),
            ("ngram_heads_offsets", "head_offsets"),
            ("ngram_heads_vocab_sizes", "head_vocab_sizes"),
        )
    },
}
"""Architecture -> tensors of a few numbers, by what comes behind "layers.N." -> the key that lists those of all."""

NAMED_AS: Mapping[str, str] = {
    "cohere2moe": "exaone-moe",
    "deepseek32": "glm-dsa",
    "deepseek4": "deepseek2",
    "glm5-next": "kimi-linear",
    "granite_swa": "mimo2",
    "hrm_text": "qwen3next",
    "hy_v3": "exaone-moe",
    "hy_v4": "glm-dsa",
    "laguna": "exaone-moe",
    "mellum": "qwen3moe",
    "minimax-01": "minimax-m2",
    "minimax-m3": "minimax-m2",
    "qwen4exp": "qwen35moe",
}
"""Architectures that gguf-py 0.19 does not have -> those whose names theirs are."""
