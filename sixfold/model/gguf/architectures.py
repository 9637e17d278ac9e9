"""Which of llama.cpp's architectures a config.json is of.

gguf-py knows the names of every architecture; what it lacks is which of transformers' model types is which of its
architectures. That table is here, and nothing else about an architecture (exporters/ggml has the rest).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sixfold.errors import SixfoldError
from sixfold.model.meta_model import known_type as transformers_type
from sixfold.model.meta_model import usual_names
from sixfold.model.wrappers import decoder_fields

GGUF_ARCHITECTURES: Mapping[str, str] = {
    "afmoe": "afmoe",
    "apertus": "apertus",
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
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone4": "exaone4",
    "exaone_moe": "exaone-moe",
    "falcon": "falcon",
    "falcon_h1": "falcon-h1",
    "falcon_mamba": "mamba",
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
    "solar_open": "glm4moe",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "step3p5": "step35",
    "youtu": "deepseek2",
}
"""transformers' model_type -> llama.cpp's general.architecture; of a checkpoint that sees or hears, its decoder's. What
gguf-py has under a model type's own name need not be here (see `architecture_named`)."""

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

STATED_TYPE = "model_type of config.json"
"""Of what `decoder_config` makes: the type of the whole model."""


@cache
def _names_of_library() -> Mapping[str, str]:
    """gguf-py's architectures, by their names without punctuation."""
    import gguf

    return {_bare(name): name for name in gguf.MODEL_ARCH_NAMES.values()}


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def architecture_named(kind: str) -> str | None:
    """llama.cpp's name of the architecture of a model type: that of GGUF_ARCHITECTURES, or the one that gguf-py has
    under the type's own name but for punctuation. None where there is neither. Whether files of it can be written,
    exporters/ggml knows."""
    if kind in _COMPUTED_OTHERWISE:
        return None
    return GGUF_ARCHITECTURES.get(kind) or _names_of_library().get(_bare(kind))


def known_type(config: Mapping[str, Any]) -> str | None:
    """The model type that config.json is of and llama.cpp's architecture is known of: of a model that sees or hears and
    is not listed, its decoder's, which computes what it does alone; of a publisher's own type, that of the class it
    names. None where there is none."""
    parts = [config] if config.get("model_type") in NOT_CAUSAL else [config, decoder_fields(config)]
    typed = [part for part in parts if part.get("model_type")]
    kinds = [str(kind) for part in typed for kind in (part["model_type"], transformers_type(part)) if kind]
    listed = next((kind for kind in kinds if kind in GGUF_ARCHITECTURES), None)
    return listed or next((kind for kind in kinds if architecture_named(kind)), None)


def gguf_architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of the architecture of a config.json. Raises SixfoldError where it is not supported."""
    kind = known_type(config)
    if kind is None and (why := _COMPUTED_OTHERWISE.get(config.get("model_type") or "")):
        raise SixfoldError(why, "leave the gguf recipes out for this model")
    named = architecture_named(kind or "")
    if kind is None or named is None:
        raise unknown_layout(config)
    own = {"granitemoehybrid": _granite_hybrid, "nemotron_h": _nemotron_h}.get(kind)
    return named if own is None else own(config)


def unknown_layout(config: Mapping[str, Any]) -> SixfoldError:
    return SixfoldError(
        f"no GGUF layout is known for model_type {config.get('model_type')}",
        "docs/families.md lists those that are; leave the gguf recipes out for this model",
    )


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
    whole |= {STATED_TYPE: config.get(STATED_TYPE) or config.get("model_type")}
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
