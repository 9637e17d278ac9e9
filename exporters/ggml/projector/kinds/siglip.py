"""SigLIP's tower, and behind it the projectors of SmolVLM, LFM2-VL, MiniCPM-V, PaddleOCR-VL, Janus, Phi-4, Youtu-VL."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from exporters.ggml.projector.arranging import patches
from exporters.ggml.projector.entry import Config, NotRun, Projector, Seeing, Value
from exporters.ggml.projector.stated import (
    EITHER,
    EPSILON,
    GELU,
    PREFIX,
    SCALE,
    SIGLIP,
    TOWER_AND_PROJECTOR,
    processor,
    tower,
    whole,
)


def _longest(seeing: Seeing) -> Any:
    return (seeing.processor.get("size") or {}).get("longest_edge", seeing.tower["image_size"])


IDEFICS3 = Projector(
    "idefics3",
    r"^model\.(vision_model|connector)\.",
    (
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        (SCALE, whole("scale_factor", 2)),
        *GELU,
        ("add_vision_preproc_image_size", _longest),
    ),
    float32=r"\.embeddings\.",
)


def _layers_run(seeing: Seeing) -> int:
    """Up to the one whose outputs are taken; -1 is the last."""
    return int(seeing.tower["num_hidden_layers"]) + seeing.whole.get("vision_feature_layer", -1) + 1


LFM2 = Projector(
    "lfm2",
    TOWER_AND_PROJECTOR,
    (
        (EPSILON, tower("layer_norm_eps")),
        (SCALE, whole("downsample_factor", 2)),
        *GELU,
        ("add_vision_block_count", _layers_run),
    ),
    renamed=(PREFIX, SIGLIP),
    left_out=r"vision_model\.head\.",
    steps=((r"patch_embedding\.weight$", patches),),
    stated=lambda seeing: {"image_size": 256},
)


def _minicpm_scale(seeing: Seeing) -> int:
    """How many patches become one, along a side."""
    mode = seeing.processor.get("downsample_mode", "16x")
    if mode != "16x":
        raise NotRun(f"preprocessor_config.json asks for {mode} fewer tokens of a picture, and only 16x is written")
    return 4


def _minicpm_modules(seeing: Seeing) -> Mapping[str, str]:
    parts = {"layer_norm1": "ln1", "pre_norm": "ds_ln", "linear_1": "ds_ffn_up", "linear_2": "ds_ffn_down"}
    parts |= {f"self_attn.{part}_proj": f"attn_{part}" for part in ("q", "k", "v", "out")}
    merged = {"pre_norm": "input_norm", "linear_1": "up", "linear_2": "down"}
    return {
        **{f"vision_tower.vision_model.vit_merger.{part}": f"v.vit_merger.{held}" for part, held in parts.items()},
        **{f"model.merger.mlp.0.{part}": f"mm.{held}" for part, held in merged.items()},
    }


MINICPM = Projector(
    "minicpmv4_6",
    r"^model\.(vision_tower|merger)\.",
    (
        (SCALE, _minicpm_scale),
        ("add_vision_wa_layer_indexes", lambda seeing: [seeing.whole.get("insert_layer_id", 6)]),
        *GELU,
        (EPSILON, tower("layer_norm_eps", 1e-6)),
    ),
    renamed=(PREFIX, SIGLIP),
    own=_minicpm_modules,
    stated=lambda seeing: {"image_size": seeing.processor.get("scale_resolution", seeing.tower["image_size"])},
)
PADDLE = Projector(
    "paddleocr",
    r"^(model\.)?(visual|mlp_AR)\.",
    (
        ("add_vision_max_pixels", processor("max_pixels")),
        ("add_vision_min_pixels", processor("min_pixels")),
        *GELU,
        (EPSILON, tower("rms_norm_eps", 1e-6)),
    ),
    renamed=((r"^(model\.)?visual\.", "model."), (r"^model\.mlp_AR\.", "mlp_AR.")),
    left_out=r"packing_position_embedding|vision_model\.head",
    stated=lambda seeing: {"image_size": int(seeing.processor["max_pixels"] ** 0.5)},
)


def _janus_sizes(seeing: Seeing) -> Config:
    return {"intermediate_size": round(seeing.tower["hidden_size"] * seeing.tower["mlp_ratio"]), **seeing.tower}


def _janus_modules(seeing: Seeing) -> Mapping[str, str]:
    if seeing.tower["depth"] != 2:
        raise NotRun(f"its projector has {seeing.tower['depth']} layers, and llama.cpp's for Janus 2")
    return {"model.aligner.fc1": "mm.0", "model.aligner.hidden_layers.0": "mm.1"}


JANUS = Projector(
    "janus_pro",
    r"^(model\.)?(vision_model|aligner)\.",
    ((EPSILON, tower("layer_norm_eps", 1e-6)), *EITHER),
    renamed=((r"^(vision_model|aligner)\.", r"model.\1."),),
    own=lambda seeing: (
        {"model.aligner.fc1": "mm.0"}
        | {f"model.aligner.hidden_layers.{n}": f"mm.{n + 1}" for n in range(seeing.tower.get("depth", 2) - 1)}
    ),
    stated=_janus_sizes,
)


def _phi4_sizes(seeing: Seeing) -> Config:
    """A picture of the size that there are positions for."""
    name = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight"
    side, patch = isqrt(seeing.tensors[name].shape[0]), seeing.processor["patch_size"]
    return {"patch_size": patch, "image_size": side * patch}


def _patches_of(name: str) -> Value:
    """In pixels; the processor states a number of patches, or config.json does."""
    return lambda seeing: {**seeing.whole, **seeing.processor}[name] * seeing.processor["patch_size"] ** 2


PHI4 = Projector(
    "phi4",
    r"^model\.(vision_tower|mm_projector)\.",
    (
        ("add_vision_min_pixels", _patches_of("min_num_patches")),
        ("add_vision_max_pixels", _patches_of("max_num_patches")),
        *GELU,
        (EPSILON, tower("layer_norm_eps", 1e-6)),
    ),
    renamed=((r"^model\.vision_tower\.vision_tower\.", "vision_tower."),),
    own=lambda seeing: {f"model.mm_projector.{n}": f"mm.{n}" for n in (0, 2)},
    left_out=r"vision_model\.(head|post_layernorm)\.",
    layers=lambda seeing: int(seeing.tower["num_hidden_layers"]) - 1,  # what the last but one hands on is taken
    steps=((r"patch_embedding\.weight$", patches),),
    stated=_phi4_sizes,
)
YOUTU = Projector(
    "youtuvl",
    r"^(siglip2|merger)\.",
    (
        (EPSILON, tower("layer_norm_eps", 1e-6)),
        ("add_vision_use_gelu", lambda seeing: "gelu" in seeing.tower.get("hidden_act", "gelu") or None),
        ("add_vision_use_silu", lambda seeing: seeing.tower.get("hidden_act") == "silu" or None),
        ("add_vision_spatial_merge_size", tower("spatial_merge_size", 2)),
        ("add_vision_window_size", tower("window_size")),
        ("add_vision_wa_layer_indexes", lambda seeing: seeing.tower["fullatt_block_indexes"]),
    ),
    stated=lambda seeing: {"image_size": seeing.tower.get("image_size", 560)},
)
