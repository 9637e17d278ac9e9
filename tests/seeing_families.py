"""Tiny random models that see, with what their processors say, for the projectors' tests."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests import every_family, published_models
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, save_tokenizer, spread

PROCESSOR = {
    "patch_size": 14,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "scale_resolution": 112,
    "min_image_tokens": 16,
    "max_image_tokens": 1024,
    "size": {"longest_edge": 384},
}
_LAYERS = 4
_SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": _LAYERS, "num_attention_heads": 4}
_GEMMA4 = {**_SIZES, "model_type": "gemma4_vision", "num_key_value_heads": 4, "head_dim": 16}
_GEMMA4 |= {"position_embedding_size": 64}
_EAR = {"model_type": "gemma4_audio", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_MINIMAX = {**_SIZES, "hidden_size": 320, "image_size": 56}  # the converter knows heads of 80 alone
_UNIFIED = {
    "vision_config": {"model_type": "gemma4_unified_vision", "patch_size": 4, "mm_embed_dim": 64, "mm_posemb_size": 32},
    "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640},  # llama.cpp knows frames of 640
}
_HUNYUAN = {**_SIZES, "model_type": "hunyuan_vl_vision", "out_hidden_size": 256, "text_hidden_size": 256}
_HUNYUAN |= {"max_image_size": 64}
_JANUS = {**_SIZES, "model_type": "janus_vision_model", "image_size": 64, "projection_dim": 256, "mlp_ratio": 1.0}
_DRAWING = {"model_type": "janus_vqgan", "base_channels": 32, "num_embeddings": 64, "embed_dim": 64}
_DRAWING |= {"image_token_embed_dim": 64, "projection_dim": 64}
_MOON = {**_SIZES, "model_type": "kimi_k25_vision"}
_MOON |= {f"vt_{name}": size for name, size in _SIZES.items()}
_MOON |= {"init_pos_emb_height": 64, "init_pos_emb_width": 64, "init_pos_emb_time": 4, "projector_ln_eps": 1e-5}
_MOON |= {"projector_hidden_act": "gelu", "merge_kernel_size": [2, 2], "patch_size": 14}
_WHISPER = {"model_type": "qwen2_audio_encoder", "d_model": 64, "encoder_ffn_dim": 64, "encoder_layers": _LAYERS}
_WHISPER |= {"encoder_attention_heads": 4}
_FLAMINGO = {**_SIZES, "model_type": "audioflamingo3_encoder"}
_VOXTRAL = {**_SIZES, "model_type": "voxtral_encoder", "intermediate_size": 256}
_PIXTRAL = {**_SIZES, "model_type": "pixtral", "image_size": 56, "head_dim": 16}

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "audioflamingo3": ("audioflamingo3", {"audio_config": _FLAMINGO}),
    "gemma3": ("gemma3", {}),
    "gemma4": ("gemma4", {"vision_config": _GEMMA4}),
    "gemma4 that hears": (
        "gemma4",
        {
            "vision_config": {**_GEMMA4, "use_clipped_linears": True},
            "audio_config": {**_EAR, "output_proj_dims": 64},
        },
    ),
    "gemma4_unified": ("gemma4_unified", _UNIFIED),
    "exaone4_5": ("exaone4_5", {}),
    "glm4v": ("glm4v", {}),
    "glm4v_moe": ("glm4v_moe", {}),
    "glm_ocr": ("glm_ocr", {}),
    "glm5_next": ("glm5_next", {}),
    "hunyuan_vl": ("hunyuan_vl", {"vision_config": _HUNYUAN}),
    "idefics3": ("idefics3", {}),
    "internvl": ("internvl", {}),
    "janus": ("janus", {"vision_config": _JANUS, "vq_config": _DRAWING}),
    "kimi_k25": ("kimi_k25", {}),
    "kimi_k25 as published": ("kimi_k25", {"vision_config": _MOON}),
    "lfm2_vl": ("lfm2_vl", {}),
    "lighton_ocr": ("lighton_ocr", {}),
    "llama4": ("llama4", {}),
    "minicpmv4_6": ("minicpmv4_6", {"insert_layer_id": 2}),
    "minimax_m3_vl": ("minimax_m3_vl", {"vision_config": _MINIMAX}),
    "mistral3": ("mistral3", {}),
    "paddleocr_vl": ("paddleocr_vl", {}),
    "pixtral": ("llava", {"vision_config": _PIXTRAL}),
    "qianfan_ocr": ("qianfan_ocr", {}),
    "qwen2_5_vl": ("qwen2_5_vl", {}),
    "qwen2_vl": ("qwen2_vl", {}),
    "qwen2_audio": ("qwen2_audio", {"audio_config": _WHISPER}),
    "qwen3_5": ("qwen3_5", {}),
    "qwen3_5_moe": ("qwen3_5_moe", {}),
    "qwen3_vl": ("qwen3_vl", {}),
    "qwen3_vl_moe": ("qwen3_vl_moe", {}),
    "qwen4_exp": ("qwen4_exp", {}),
    "smolvlm": ("smolvlm", {}),
    "step3p7": ("step3p7", {"understand_projector_stride": 2}),
    "voxtral": ("voxtral", {"audio_config": _VOXTRAL}),
}
"""Name -> family of tests.every_family, and changes of its config."""

SEEING = (*FAMILIES, *published_models.PUBLISHED)


def make_seeing(name: str, folder: Path) -> Path:
    """A model of one of SEEING, with a tower of four layers: llama.cpp's converter counts modules of projectors by
    those."""
    if name in FAMILIES:
        family, changes = FAMILIES[name]
        tower = _deeper(family)
        every_family.make_family(family, folder, **{**({"vision_config": tower} if tower else {}), **changes})
        rename_tensors(folder, [(r"^language_model\.model\.model\.", "language_model.model.")])  # as published
    else:
        published_models.make_published(name, folder)
    spread(folder)
    tokenizer = byte_level_tokenizer([], size=300)
    tokenizer.add_special_tokens(["[IMG_BREAK]", "[gMASK]", "<|user|>", "<|observation|>"])
    save_tokenizer(tokenizer, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def _deeper(family: str) -> dict[str, Any]:
    tower = getattr(every_family.tiny_config(family), "vision_config", None)
    stated: dict[str, Any] = {} if tower is None else tower.to_dict()
    for name in ("depth", "num_hidden_layers"):
        if name in stated:
            stated[name] = _LAYERS
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        if stated.get(name):
            stated[name] = [1, 3]
    if "embed_dim" in stated:  # of Qwen2-VL, whose hidden_size is what the language model reads
        stated["hidden_size"] = 256
    return stated


def rename_tensors(folder: Path, names: Sequence[tuple[str, str]]) -> None:
    """Expressions and what stands in their place; a name that becomes empty is dropped with its tensor."""
    file = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        if name:
            renamed[name] = tensor
    save_file(renamed, file, {"format": "pt"})
