"""What the keys of a projector's file must be for a source: what llama.cpp's clip.cpp reads of each kind."""

from collections.abc import Callable, Mapping
from typing import Any

from verification.structure.projector.stated import (
    Config,
    deepseek,
    dots,
    exaone,
    first,
    gemma3,
    gemma4,
    gemma4_unified,
    glm4v,
    glm5v,
    hunyuan,
    idefics3,
    internvl,
    janus,
    kimi,
    kimi_vl,
    lfm2,
    llama4,
    minicpm,
    minimax,
    paddle,
    phi4,
    pixtral,
    qwen2,
    qwen3,
    qwen25,
    step,
    youtu,
)

_Stated = Callable[[Config, Config, Config], Mapping[str, Any]]
"""From config.json, its vision_config and the processor's file to values of keys behind "clip."."""

_LAYERS = ("num_hidden_layers", "depth", "layers", "vt_num_hidden_layers")
_HEADS = ("num_attention_heads", "num_heads", "heads", "vt_num_attention_heads")


def expected_keys(kind: str, config: Config, processor: Config) -> dict[str, Any]:
    """Value by key. config: with transformers' defaults."""
    if kind in _HEARING:
        return {f"clip.{key}": value for key, value in _hearing(kind, config).items()}
    tower = config.get("vision_config") or {}
    text = {**config, **(config.get("text_config") or {})}
    kept = {
        "has_vision_encoder": True,
        "vision.projection_dim": text["hidden_size"],
        "vision.embedding_length": first(tower, "hidden_size", "width", "vt_hidden_size"),
        "vision.feed_forward_length": first(tower, "intermediate_size", "vt_intermediate_size"),
        "vision.block_count": first(tower, *_LAYERS),
        "vision.attention.head_count": first(tower, *_HEADS),
        "vision.patch_size": tower.get("patch_size"),
        "vision.image_size": tower.get("image_size"),
        "vision.image_mean": processor.get("image_mean"),
        "vision.image_std": processor.get("image_std"),
    }
    kept |= _OF[kind](config, tower, processor)
    return {f"clip.{key}": value for key, value in kept.items() if value is not None}


def tower_heads(config: Config) -> int:
    return int(first(config.get("vision_config") or {}, *_HEADS) or 1)


def _hearing(kind: str, config: Config) -> Mapping[str, Any]:
    ear, text = config["audio_config"], {**config, **(config.get("text_config") or {})}
    return {
        "has_audio_encoder": True,
        "audio.projection_dim": text["hidden_size"],
        "audio.embedding_length": first(ear, "hidden_size", "d_model"),
        "audio.feed_forward_length": first(ear, "intermediate_size", "encoder_ffn_dim"),
        "audio.block_count": first(ear, "num_hidden_layers", "encoder_layers"),
        "audio.attention.head_count": first(ear, "num_attention_heads", "encoder_attention_heads"),
        "audio.attention.layer_norm_epsilon": ear.get("layer_norm_eps", 1e-5),
        "audio.num_mel_bins": ear["num_mel_bins"],
        **_HEARING[kind],
    }


_HEARING: Mapping[str, Mapping[str, Any]] = {
    "musicflamingo": {},
    "qwen2a": {},
    "voxtral": {"audio.projector.stack_factor": 4},
}
"""Kinds that hear and do not see, and what is the same in all of one."""

_OF: Mapping[str, _Stated] = {
    "deepseek4v": deepseek,
    "dots_ocr": dots,
    "gemma3": gemma3,
    "gemma4v": gemma4,
    "gemma4uv": gemma4_unified,
    "exaone4_5": exaone,
    "glm4v": glm4v,
    "glm5v": glm5v,
    "hunyuanvl": hunyuan,
    "idefics3": idefics3,
    "internvl": internvl,
    "janus_pro": janus,
    "kimik25": kimi,
    "kimivl": kimi_vl,
    "lfm2": lfm2,
    "lightonocr": pixtral,
    "llama4": llama4,
    "minicpmv4_6": minicpm,
    "minimax_m3": minimax,
    "paddleocr": paddle,
    "phi4": phi4,
    "pixtral": pixtral,
    "qwen2.5vl_merger": qwen25,
    "qwen2vl_merger": qwen2,
    "qwen3vl_merger": qwen3,
    "step3vl": step,
    "youtuvl": youtu,
}
