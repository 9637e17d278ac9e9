"""What llama.cpp calls the tensors of a checkpoint: for the writers of GGUF files, the exporter and the imatrix writer.

gguf-py knows the names of every architecture; what it lacks is which of transformers' model types is which of its
architectures. That table is here, and nothing else about an architecture (exporters/ggml has the rest).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sixfold.errors import SixfoldError
from sixfold.model.gguf_drafts import HELD_BY, draft_part, in_layers
from sixfold.model.meta_model import known_type as transformers_type
from sixfold.model.meta_model import usual_names
from sixfold.model.wrappers import decoder_fields, lies_around

GGUF_ARCHITECTURES: Mapping[str, str] = {
    "afmoe": "afmoe",
    "apertus": "apertus",
    "arcee": "arcee",
    "bamba": "granitehybrid",
    "bloom": "bloom",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "cohere2_moe": "cohere2moe",
    "dbrx": "dbrx",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "deepseek_v32": "deepseek32",
    "deepseek_v4": "deepseek4",
    "dots1": "dots1",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone4": "exaone4",
    "exaone_moe": "exaone-moe",
    "falcon": "falcon",
    "falcon_h1": "falcon-h1",
    "falcon_mamba": "mamba",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma3n_text": "gemma3n",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_text": "gemma4",
    "glm": "chatglm",
    "glm4": "glm4",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "glm4v_moe": "glm4moe",
    "glm4v_text": "glm4",
    "glm5_next": "glm5-next",
    "glm5_next_text": "glm5-next",
    "glm_moe_dsa": "glm-dsa",
    "glm_ocr_text": "glm4",
    "gpt2": "gpt2",
    "gpt_bigcode": "starcoder",
    "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss",
    "granite": "granite",
    "granite_swa": "granite_swa",
    "granitemoe": "granitemoe",
    "granitemoe_swa": "granite_swa",
    "granitemoehybrid": "granitehybrid",
    "granitemoeshared": "granitemoe",
    "hrm_text": "hrm_text",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hunyuan_v1_moe": "hunyuan-moe",
    "hunyuan_vl_text": "hunyuan_vl",
    "hy_v3": "hy_v3",
    "hy_v4": "hy_v4",
    "jais2": "jais2",
    "jamba": "jamba",
    "kimi_linear": "kimi-linear",
    "laguna": "laguna",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
    "llama": "llama",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "mellum": "mellum",
    "mimo_v2_flash": "mimo2",
    "minicpm3": "minicpm3",
    "minimax": "minimax-01",
    "minimax_m2": "minimax-m2",
    "minimax_m3_vl": "minimax-m3",
    "ministral3": "mistral3",
    "mistral": "llama",
    "mistral3": "mistral3",
    "mistral4": "mistral4",
    "mixtral": "llama",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "nemotron_h": "nemotron_h_moe",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "paddleocr_vl": "paddleocr",
    "phi": "phi2",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2": "qwen2",
    "qwen2_5_vl": "qwen2vl",
    "qwen2_moe": "qwen2moe",
    "qwen2_vl": "qwen2vl",
    "qwen3": "qwen3",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5_text": "qwen35",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
    "qwen3_vl": "qwen3vl",
    "qwen3_vl_moe": "qwen3vlmoe",
    "qwen4_exp": "qwen4exp",
    "qwen4_exp_text": "qwen4exp",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "solar_open": "glm4moe",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "step3p5": "step35",
    "youtu": "deepseek2",
}
"""transformers' model_type -> llama.cpp's general.architecture; of a checkpoint that sees or hears, its decoder's."""

NOT_CAUSAL = ("paligemma", "shieldgemma2")
"""Models around a decoder that do not run it as it runs alone: their prompts see themselves whole."""

_COMPUTED_OTHERWISE: Mapping[str, str] = {
    "bitnet": "llama.cpp runs SiLU in the feed-forward of a bitnet, and transformers a squared ReLU",
    **{
        kind: f"the prompt of a {kind} sees itself whole, and llama.cpp runs every prompt from left to right"
        for kind in NOT_CAUSAL
    },
}
"""transformers' model_type -> why no file of it would answer as it does."""

_RENAMED: tuple[tuple[str, str], ...] = (
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
_GRANITE_SHARED = {
    "shared_mlp.input_linear.weight": "ffn_gate_shexp+ffn_up_shexp.weight",
    "shared_mlp.output_linear.weight": "ffn_down_shexp.weight",
}
_OWN_NAMES: Mapping[str, Mapping[str, str]] = {
    "granite_swa": {
        **{f"block_sparse_moe.{name}": held for name, held in _FUSED_EXPERTS.items()},
        "block_sparse_moe.experts.down_proj.weight": "ffn_down_exps.weight",
        "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
        "shared_mlp.input_linear.weight": "ffn_up_shexp.weight",
        "shared_mlp.output_linear.weight": "ffn_down_shexp.weight",
    },
    "granite": _GRANITE_SHARED,
    "granitemoe": _GRANITE_SHARED,
    "granitehybrid": _GRANITE_SHARED,
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
    "nemotron_h_moe": {f"mixer.experts.{part}_proj.weight": f"ffn_{part}_exps.weight" for part in ("up", "down")},
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

_NAMED_AS: Mapping[str, str] = {
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

_DECODER = re.compile(r"(model\.)?(language|text)_model\.|model\.(layers|embed_tokens|norm)\.|lm_head\.")
"""How the tensors of a language model begin where towers for pictures and sound lie beside it."""

SPLIT_LATENTS = ("deepseek2", "deepseek32", "glm-dsa", "glm5-next", "hy_v4", "kimi-linear", "mistral4")
"""Architectures that hold kv_b_proj as attn_k_b (transposed) and attn_v_b (see sixfold.model.latent_attention)."""

DELTA_NETS = ("qwen35", "qwen35moe", "qwen4exp")
"""Architectures whose delta nets have their values in another order than on disk."""

LATENT_HALVES: Mapping[str, str] = {"attn_k_b": "query", "attn_v_b": "attended"}
"""What each half reads, as sixfold.model.latent_attention calls it."""

_STATED_TYPE = "model_type of config.json"
"""Of what `decoder_config` makes: the type of the whole model."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|model\.blocks)\.(\d+)\.(.*)")
_TWO_STACKS = re.compile(r"^model\.([LH])_module\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_NEVER_STORED = (
    ".rotary_emb.inv_freq",
    *(f".{a}.{b}" for a in ("attention", "attn") for b in ("masked_bias", "bias")),
    *(f".self_attn.{name}" for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay")),
)
"""Buffers that some checkpoints carry and that llama.cpp computes itself."""


def known_type(config: Mapping[str, Any]) -> str | None:
    """The model type of GGUF_ARCHITECTURES that config.json is of: of a model that sees or hears and is not listed, its
    decoder's, which computes what it does alone; of a publisher's own type, that of the class it names. None where
    none is listed."""
    parts = [config] if config.get("model_type") in NOT_CAUSAL else [config, decoder_fields(config)]
    typed = [part for part in parts if part.get("model_type")]
    for part in typed:
        for kind in (part["model_type"], transformers_type(part)):
            if kind in GGUF_ARCHITECTURES:
                return str(kind)
    return None


def gguf_architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of the architecture of a config.json. Raises SixfoldError where it is not supported."""
    kind = known_type(config)
    if kind is None and (why := _COMPUTED_OTHERWISE.get(config.get("model_type") or "")):
        raise SixfoldError(why, "leave the gguf recipes out for this model")
    if kind is None:
        raise SixfoldError(
            f"no GGUF layout is known for model_type {config.get('model_type')}",
            f"GGUF is supported for {', '.join(sorted(GGUF_ARCHITECTURES))}; leave the gguf recipes out for this model",
        )
    own = {"granitemoehybrid": _granite_hybrid, "nemotron_h": _nemotron_h}.get(kind)
    return GGUF_ARCHITECTURES[kind] if own is None else own(config)


def _nemotron_h(config: Mapping[str, Any]) -> str:
    letters = {"-": "mlp", "E": "moe"}
    pattern = [letters.get(letter, letter) for letter in config.get("hybrid_override_pattern") or ""]
    kinds = set(config.get("layers_block_type") or pattern)
    if {"mlp", "moe"} <= kinds:
        raise SixfoldError(
            "some layers of this nemotron_h have experts and others one feed-forward, which llama.cpp has no"
            " architecture for",
            "leave the gguf recipes out for this model",
        )
    return "nemotron_h_moe" if "moe" in kinds else "nemotron_h"


def _granite_hybrid(config: Mapping[str, Any]) -> str:
    """Granite 4 without recurrent layers is what its forerunners are."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    if {"mamba", "linear_attention"} & set(kinds):
        return "granitehybrid"
    if config.get("position_embedding_type") != "rope":
        raise SixfoldError(
            "this granitemoehybrid has attention alone and no rotary positions, which llama.cpp would add",
            "leave the gguf recipes out for this model",
        )
    return "granitemoe" if config.get("num_experts_per_tok") else "granite"


def decoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the language model in one mapping, wherever config.json keeps them, as llama.cpp's converter reads
    them; tie_word_embeddings is that of the whole, and model_type what `known_type` says."""
    tied = config.get("tie_word_embeddings")
    whole = {"model_type": known_type(config) or config.get("model_type")}
    whole |= {_STATED_TYPE: config.get(_STATED_TYPE) or config.get("model_type")}
    whole |= {} if tied is None else {"tie_word_embeddings": tied}
    whole |= {"num_hidden_layers": len(config["layers_block_type"])} if config.get("layers_block_type") else {}
    whole |= _in_turns(config) if config.get("H_cycles") else {}
    found = {**config, **decoder_fields(config), **whole}
    return {**usual_names(found), **found}


def _in_turns(config: Mapping[str, Any]) -> dict[str, int]:
    """HRM-Text's layers, each as often as it runs: transformers saves that number beside a stack's own, publishers the
    latter in its place."""
    stack = config.get("num_layers_per_stack") or config["num_hidden_layers"]
    return {
        "num_layers_per_stack": stack,
        "num_hidden_layers": stack * config["H_cycles"] * (config["L_cycles"] + 1),
    }


def latent_halves(config: Mapping[str, Any], gguf_name: str) -> tuple[str, ...]:
    """`blk.N.attn_k_b.weight` and `blk.N.attn_v_b.weight` for a kv_b_proj that the architecture holds split; () for any
    other tensor.

    llama-imatrix records the halves and not the whole, and llama-quantize weights each head by a row of its own.
    """
    if gguf_architecture(config) not in SPLIT_LATENTS or ".attn_kv_b." not in gguf_name:
        return ()
    return tuple(gguf_name.replace("attn_kv_b", half) for half in LATENT_HALVES)


def numbers_of_layers(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, list[str]]:
    """Key of a GGUF file -> the tensors whose numbers it states, layer by layer."""
    keys = AS_KEYS.get(gguf_architecture(config), {})
    found: dict[str, dict[int, str]] = {}
    for name in tensor_names if keys else ():
        layer = _LAYER.search(name)
        if layer and layer[2] in keys:
            found.setdefault(keys[layer[2]], {})[int(layer[1])] = name
    return {key: [names[layer] for layer in sorted(names)] for key, names in found.items()}


def row_parts(gguf_name: str) -> tuple[str, ...]:
    """`blk.N.a.weight` and `blk.N.b.weight` for `blk.N.a+b.weight`: the rows of one matrix on disk, held as two, or
    more; () for any other tensor."""
    block, layer, held = (gguf_name.split(".", 2) + [""] * 3)[:3]
    names, _, kind = held.rpartition(".")
    return tuple(f"{block}.{layer}.{name}.{kind}" for name in names.split("+")) if "+" in names else ()


def latent_half(gguf_name: str) -> str | None:
    """What a tensor reads that is half of a kv_b_proj; None for any other tensor."""
    return LATENT_HALVES.get(gguf_name.split(".")[-2])


@dataclass(frozen=True)
class ValueHeads:
    """Of a delta net that has several values for each key: transformers keeps those of a key together, llama.cpp has
    the first of every key, then the second."""

    keys: int
    each: int
    channels: int

    def tiled(self, values: torch.Tensor) -> torch.Tensor:
        """[..., keys * each * channels], from transformers' order to llama.cpp's."""
        return values.unflatten(-1, (self.keys, self.each, self.channels)).transpose(-3, -2).flatten(-3)

    def untiled(self, values: torch.Tensor) -> torch.Tensor:
        """Back again."""
        return ValueHeads(self.each, self.keys, self.channels).tiled(values)


def tiled_inputs(config: Mapping[str, Any], gguf_name: str) -> ValueHeads | None:
    """How the input channels of a tensor are ordered otherwise than on disk; None where they are not."""
    if gguf_architecture(config) not in DELTA_NETS or not gguf_name.endswith(".ssm_out.weight"):
        return None
    config = decoder_config(config)
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    return ValueHeads(keys, values // keys, config["linear_value_head_dim"]) if values > keys else None


def _in_one_stack(name: str, config: Mapping[str, Any]) -> str:
    """HRM-Text's stack of high-level layers behind that of low-level ones; other names as they are."""

    def numbered(found: re.Match[str]) -> str:
        before = config["num_layers_per_stack"] if found[1] == "H" else 0
        return f"model.layers.{before + int(found[2])}."

    return _TWO_STACKS.sub(numbered, name)


def gguf_tensor_names(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, str]:
    """On-disk tensor name -> GGUF tensor name, in the order given; all experts of a layer share one stacked name.

    Left out, as llama.cpp does not hold them: multi-token prediction layers (but for the architectures of
    sixfold.model.gguf_drafts), stored rotary frequencies, an lm_head that is tied to the embeddings, and towers beside
    the decoder.

    kv_b_proj of multi-head latent attention gets its one name `blk.N.attn_kv_b.weight`; see `latent_halves`.

    Raises SixfoldError for an unknown architecture and for a tensor that it has no name for.
    """
    import gguf

    architecture = gguf_architecture(config)
    sees, config = bool(decoder_fields(config)), decoder_config(config)
    name_of_arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = config["num_hidden_layers"]
    named_as = architecture if architecture in name_of_arch else _NAMED_AS[architecture]
    held = [
        in_layers(name, layers) if architecture in HELD_BY else _in_one_stack(name, config) for name in tensor_names
    ]
    blocks = max([layers, *(int(layer[1]) + 1 for name in held if (layer := _LAYER.search(name)))])
    mapping, own = gguf.get_tensor_name_map(name_of_arch[named_as], blocks), _OWN_NAMES.get(architecture, {})
    if own is _GRANITE_SHARED and not config.get("num_local_experts"):
        own = {
            name: held.replace("_shexp", "") for name, held in own.items()
        }  # what experts would share is all there is
    tied = bool(config.get("tie_word_embeddings"))

    def found(name: str) -> str | None:
        """None for what is left out."""
        layer = _LAYER.search(name)
        drafts = layer is not None and int(layer[1]) >= layers
        if (drafts and architecture not in HELD_BY) or "mtp" in name.split("."):
            return None
        if name.endswith(_NEVER_STORED) or (tied and name.endswith("lm_head.weight")):
            return None
        if (sees and not _DECODER.match(name)) or lies_around(str(config[_STATED_TYPE]), name):
            return None
        if layer and drafts and (part := draft_part(layer[2])):
            return f"blk.{layer[1]}.{part}"
        if layer and layer[2] in AS_KEYS.get(architecture, {}):
            return None
        if layer and layer[2] in own:
            return f"blk.{layer[1]}.{own[layer[2]]}"
        known = name
        for pattern, replacement in _RENAMED:
            known = re.sub(pattern, replacement, known)
        if known in own:
            return own[known]
        gguf_name: str | None = mapping.get_name(known, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise SixfoldError(
                f"GGUF architecture {architecture} has no name for tensor {name}",
                "leave the gguf recipes out for this model",
            )
        return gguf_name

    names: dict[str, str] = {}
    of_any_expert: dict[str, str | None] = {}
    for name, in_layer in zip(tensor_names, held, strict=True):
        stacked = _EXPERT.sub(".experts.", in_layer, count=1)
        if stacked not in of_any_expert:
            of_any_expert[stacked] = found(stacked)
        gguf_name = of_any_expert[stacked]
        if gguf_name is not None:
            names[name] = gguf_name
    return names
