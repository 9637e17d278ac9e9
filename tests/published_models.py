"""Tiny random checkpoints with the names and configs of publishers whose models transformers has no class for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import every_family

Shapes = Mapping[str, tuple[int, ...]]

_LAYERS = 4
_SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": _LAYERS, "num_attention_heads": 4}


@dataclass(frozen=True)
class Published:
    """decoder: a family of tests.every_family. field: of config.json, that describes it with the class it is of, None
    where config.json itself does. config: the rest of config.json. tensors: of modules beside the decoder, with the
    shape of their weights; a bias of as many rows comes with each. bare: tensors that come alone. inside: what the
    names of the decoder's tensors begin with."""

    decoder: str
    field: tuple[str, str] | None
    config: Mapping[str, Any]
    tensors: Shapes
    bare: Shapes
    inside: str = ""


def _blocks(path: str, parts: Shapes) -> Shapes:
    return {f"{path}.{layer}.{part}": shape for layer in range(_LAYERS) for part, shape in parts.items()}


_INTERNVL = Published(
    "qwen3",
    ("llm_config", "Qwen3ForCausalLM"),
    {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "vision_config": {
            **_SIZES,
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "image_size": 56,
            "patch_size": 14,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
        },
    },
    {
        "vision_model.embeddings.patch_embedding": (64, 3, 14, 14),
        **_blocks(
            "vision_model.encoder.layers",
            {"attn.qkv": (192, 64), "attn.proj": (64, 64), "norm1": (64,), "norm2": (64,)}
            | {"mlp.fc1": (64, 64), "mlp.fc2": (64, 64)},
        ),
        "mlp1.0": (256,),
        "mlp1.1": (256, 256),
        "mlp1.3": (256, 256),
    },
    {
        "vision_model.embeddings.class_embedding": (1, 1, 64),
        "vision_model.embeddings.position_embedding": (1, 17, 64),
        **_blocks("vision_model.encoder.layers", {"ls1": (64,), "ls2": (64,)}),
    },
    "language_model.",
)
_KIMI_VL = Published(
    "deepseek_v3",
    ("text_config", "DeepseekV3ForCausalLM"),
    {
        "model_type": "kimi_vl",
        "architectures": ["KimiVLForConditionalGeneration"],
        "media_placeholder_token_id": 511,
        "vision_config": {
            **_SIZES,
            "model_type": "moonvit",
            "patch_size": 14,
            "init_pos_emb_height": 8,
            "init_pos_emb_width": 8,
            "merge_kernel_size": [2, 2],
        },
    },
    {
        "vision_tower.patch_embed.proj": (64, 3, 14, 14),
        **_blocks(
            "vision_tower.encoder.blocks",
            {"norm0": (64,), "norm1": (64,), "wqkv": (192, 64), "wo": (64, 64)}
            | {"mlp.fc0": (64, 64), "mlp.fc1": (64, 64)},
        ),
        "vision_tower.encoder.final_layernorm": (64,),
        "multi_modal_projector.pre_norm": (64,),
        "multi_modal_projector.linear_1": (256, 256),
        "multi_modal_projector.linear_2": (256, 256),
    },
    {"vision_tower.patch_embed.pos_emb.weight": (8, 8, 64)},
    "language_model.",
)
_GLM5V = Published(
    "glm_moe_dsa",
    ("text_config", "GlmMoeDsaForCausalLM"),
    {
        "model_type": "glm5v",
        "architectures": ["Glm5vForConditionalGeneration"],
        "media_placeholder_token_id": 511,
        "vision_config": {
            **{f"vt_{name}": size for name, size in _SIZES.items()},
            "vt_num_attention_heads": 16,  # which the converter takes for given
            "patch_size": 14,
            "init_pos_emb_height": 8,
            "init_pos_emb_width": 8,
            "init_pos_emb_time": 4,
            "merge_kernel_size": [2, 2],
            "projector_hidden_act": "gelu",
            "projector_ln_eps": 1e-5,
        },
    },
    {
        **{name: shape for name, shape in _KIMI_VL.tensors.items() if name.startswith("vision_tower.")},
        "mm_projector.pre_norm": (64,),
        "mm_projector.proj.0": (256, 256),
        "mm_projector.proj.2": (256, 256),
    },
    _KIMI_VL.bare,
)
_DEEPSEEK_V4 = Published(
    "deepseek_v4",
    None,
    {
        "architectures": ["DeepseekV4ForCausalLM"],
        "vision_n_layers": _LAYERS,
        "vision_dim": 64,
        "vision_n_heads": 4,
        "vision_inter_dim": 32,
        "vision_patch_size": 14,
        "vision_downsample_ratio": 3,
        "vision_min_pixels": 3136,
        "vision_max_n_token": 384,
        "vision_max_wh_ratio": 8,
    },
    {"aligner.w1": (64, 576), "aligner.w2": (256, 64)},
    {
        "vision.patch_embed.proj.weight": (64, 588),
        **_blocks(
            "vision.blocks",
            {"norm1.weight": (64,), "norm2.weight": (64,), "attn.wqkv.weight": (192, 64), "attn.wo.weight": (64, 64)}
            | {"mlp.w1.weight": (64, 64), "mlp.w2.weight": (64, 32)},
        ),
        "vision.norm.weight": (64,),
        **{f"image_{name}": (256,) for name in ("newline", "start", "end", "pad")},
    },
)
_DOTS = Published(
    "qwen2",
    None,
    {
        "model_type": "dots_ocr",
        "architectures": ["DotsOCRForCausalLM"],
        "vision_config": {**_SIZES, "embed_dim": 64, "patch_size": 14, "spatial_merge_size": 2, "rms_norm_eps": 1e-5},
    },
    {
        "vision_tower.patch_embed.patchifier.proj": (64, 3, 14, 14),
        "vision_tower.merger.ln_q": (64,),
        "vision_tower.merger.mlp.0": (256, 256),
        "vision_tower.merger.mlp.2": (256, 256),
    },
    {
        "vision_tower.patch_embed.patchifier.norm.weight": (64,),
        "vision_tower.post_trunk_norm.weight": (64,),
        **_blocks(
            "vision_tower.blocks",
            {"norm1.weight": (64,), "norm2.weight": (64,), "attn.qkv.weight": (192, 64), "attn.proj.weight": (64, 64)}
            | {f"mlp.fc{n}.weight": (64, 64) for n in (1, 2, 3)},
        ),
    },
)
_SIGLIP_LAYER = {f"self_attn.{part}_proj": (64, 64) for part in ("q", "k", "v", "out")}
_SIGLIP_LAYER |= {"layer_norm1": (64,), "layer_norm2": (64,), "mlp.fc1": (64, 64), "mlp.fc2": (64, 64)}


def _siglip(path: str) -> Shapes:
    return {
        f"{path}.embeddings.patch_embedding": (64, 588),
        **_blocks(f"{path}.encoder.layers", _SIGLIP_LAYER),
        f"{path}.post_layernorm": (64,),
    }


_PHI4 = Published(
    "phi3",
    None,
    {
        "model_type": "phi4-siglip",
        "architectures": ["Phi4ForCausalLMV"],
        "min_num_patches": 16,
        "max_num_patches": 64,
        "vision_config": {**_SIZES, "model_type": "siglip2_vision_model", "layer_norm_eps": 1e-6},
    },
    {
        **_siglip("model.vision_tower.vision_tower.vision_model"),
        "model.mm_projector.0": (256, 64),
        "model.mm_projector.2": (256, 256),
    },
    {"model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (16, 64)},
)
_STEP = Published(
    "qwen3",
    ("text_config", "Qwen3ForCausalLM"),
    {
        "model_type": "step_robotics",
        "architectures": ["StepVLForConditionalGeneration"],
        "understand_projector_stride": 2,
        "vision_config": {
            "image_size": 56,
            "patch_size": 14,
            "width": 64,
            "layers": _LAYERS,
            "heads": 4,
            "mlp_ratio": 2,
        },
    },
    {
        "vision_model.ln_pre": (64,),
        **_blocks(
            "vision_model.transformer.resblocks",
            {"attn.out_proj": (64, 64), "ln_1": (64,), "ln_2": (64,), "mlp.c_fc": (128, 64), "mlp.c_proj": (64, 128)},
        ),
        "vision_model.vit_downsampler1": (128, 64, 3, 3),
        "vision_model.vit_downsampler2": (256, 128, 3, 3),
    },
    {
        "vision_model.conv1.weight": (64, 3, 14, 14),
        "vision_model.positional_embedding": (16, 64),
        **_blocks(
            "vision_model.transformer.resblocks",
            {"attn.in_proj_weight": (192, 64), "attn.in_proj_bias": (192,), "ls_1.gamma": (64,), "ls_2.gamma": (64,)},
        ),
        "vit_large_projector.weight": (256, 256),
    },
)
_YOUTU = Published(
    "youtu",
    None,
    {
        "model_type": "youtu_vl",
        "architectures": ["YoutuVLForConditionalGeneration"],
        "vision_config": {
            **_SIZES,
            "model_type": "siglip2_vision_model",
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
        },
    },
    {**_siglip("siglip2.vision_model"), "merger.mlp.0": (256, 256), "merger.mlp.2": (256, 256)},
    {"merger.ln_q.weight": (64,)},
)
PUBLISHED: Mapping[str, Published] = {
    "deepseek_v4 that sees": _DEEPSEEK_V4,
    "dots_ocr": _DOTS,
    "glm5v": _GLM5V,
    "internvl_chat": _INTERNVL,
    "kimi_vl": _KIMI_VL,
    "phi4-siglip": _PHI4,
    "step_robotics": _STEP,
    "youtu_vl": _YOUTU,
}


def make_published(name: str, folder: Path) -> Path:
    """A model of one of PUBLISHED, with a byte-level tokenizer."""
    published = PUBLISHED[name]
    every_family.make_family(published.decoder, folder)
    held = {f"{published.inside}{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    shapes = dict(published.bare)
    for module, shape in published.tensors.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
    held |= {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    decoder = json.loads((folder / "config.json").read_text())
    config = {**decoder, **published.config}
    if published.field:
        field, architecture = published.field
        shared = {name: decoder[name] for name in ("dtype", "tie_word_embeddings")}
        config = {**published.config, **shared, field: {**decoder, "architectures": [architecture]}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
