"""The projectors that are known, by transformers' model type. One entry a kind; what differs by family is a line."""

from collections.abc import Mapping
from dataclasses import replace

from exporters.ggml.projector.arranging import (
    frames,
    one_added,
    patches,
    rotated,
    softened,
    squeezed,
    thirds,
    token,
    two_axes,
)
from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import (
    EITHER,
    EPSILON,
    GELU,
    MERGED,
    SCALE,
    SILU,
    deepstack,
    first_side,
    gemma3_scale,
    layers_run,
    llama4_modules,
    longest,
    moon_pixels,
    pixels_of_tokens,
    processor,
    qwen3_modules,
    qwen_sizes,
    side_of_positions,
    some,
    tower,
    whole,
    windows,
)

_PREFIX = (r"^model\.(?=(visual|vision_tower|vision_model|multi_modal_projector|mm_projector)\.)", "")
_VISUAL = r"^(model\.)?visual\."
_FRAMES = (r"patch_embed\.proj\.weight$", frames)
_QWEN2 = Projector(
    "qwen2vl_merger",
    _VISUAL,
    ((EPSILON, whole("rms_norm_eps", 1e-6)),),
    renamed=(_PREFIX,),
    steps=(_FRAMES, (r"\.qkv\.", thirds)),
    stated=qwen_sizes,
)
_QWEN3 = Projector(
    "qwen3vl_merger",
    _VISUAL,
    (
        *GELU,
        *MERGED,
        (EPSILON, lambda seeing: (seeing.whole.get("text_config") or {}).get("rms_norm_eps", 1e-6)),
        ("add_vision_is_deepstack_layers", deepstack),
    ),
    renamed=(_PREFIX,),
    own=qwen3_modules,
    steps=(_FRAMES,),
    stated=side_of_positions,
)
_SIGLIP = (r"^(vision_tower|model\.vision_tower)\.(?!vision_model\.)", "vision_tower.vision_model.")
_TOWER_AND_PROJECTOR = r"^(model\.)?(vision_tower|vision_model|multi_modal_projector)\."
_PIXTRAL = Projector(
    "pixtral",
    _TOWER_AND_PROJECTOR,
    (
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        *EITHER,
        ("add_vision_spatial_merge_size", whole("spatial_merge_size")),
    ),
    tower="pixtral",
    renamed=(_PREFIX,),
    beside=((r"embed_tokens\.weight$", "v.token_embd.img_break"),),
    steps=((r"[qk]_proj\.(weight|bias)$", rotated), (r"embed_tokens\.weight$", token("[IMG_BREAK]"))),
)
_GLM4V = Projector(
    "glm4v",
    _VISUAL,
    (*EITHER, (EPSILON, tower("rms_norm_eps", 1e-5))),
    renamed=(_PREFIX,),
    steps=(_FRAMES,),
    stated=side_of_positions,
)
_IDEFICS3 = Projector(
    "idefics3",
    r"^model\.(vision_model|connector)\.",
    (
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        (SCALE, whole("scale_factor", 2)),
        *GELU,
        ("add_vision_preproc_image_size", longest),
    ),
    float32=r"\.embeddings\.",
)

_GLM5V = replace(
    _GLM4V,
    kind="glm5v",
    keys=(
        *_GLM4V.keys,
        *MERGED,
        ("clip.vision.swiglu_clamp", lambda seeing: float(seeing.tower["swiglu_limit"])),
        ("add_vision_min_pixels", pixels_of_tokens("min_image_tokens")),
        ("add_vision_max_pixels", pixels_of_tokens("max_image_tokens")),
    ),
)
_EXAONE = replace(
    _QWEN2,
    kind="exaone4_5",
    keys=(
        *SILU,
        ("add_vision_min_pixels", processor("min_pixels")),
        ("add_vision_max_pixels", processor("max_pixels")),
        ("clip.vision.attention.head_count_kv", tower("num_key_value_heads")),
        (EPSILON, lambda seeing: seeing.tower.get("rms_norm_eps", seeing.whole.get("rms_norm_eps", 1e-6))),
        ("add_vision_window_size", tower("window_size")),
        ("add_vision_n_wa_pattern", windows),
    ),
    steps=(_FRAMES,),
)

PROJECTORS: Mapping[str, Projector] = {
    "gemma3": Projector(
        "gemma3",
        _TOWER_AND_PROJECTOR,
        ((EPSILON, tower("layer_norm_eps", 1e-6)), *GELU, (SCALE, gemma3_scale)),
        renamed=(_PREFIX, _SIGLIP, (r"_weight$", ".weight")),
        left_out=r"vision_model\.head\.",
        steps=((r"soft_emb_norm\.weight$", one_added),),
        float32=r"\.embeddings\.",
        float16="input_projection",
    ),
    "gemma4": Projector(
        "gemma4v",
        r"^model\.(vision_tower|embed_vision|audio_tower|embed_audio)\.",
        ((EPSILON, tower("layer_norm_eps", 1e-6)),),
        hears="gemma4a",
        audio_keys=(
            ("add_audio_feed_forward_length", lambda seeing: 4 * seeing.ear["hidden_size"]),
            ("add_audio_num_mel_bins", lambda seeing: seeing.ear.get("input_feat_size", 128)),
            ("add_audio_attention_layernorm_eps", lambda seeing: seeing.ear.get("layer_norm_eps", 1e-6)),
        ),
        renamed=(
            (r"^model\.vision_tower\.encoder\.", "vision_model.model."),
            (r"^model\.audio_tower\.", "conformer."),
            (r"\.linear\.(weight|bias)$", r".\1"),
            (r"(layer_scalar|position_embedding_table|per_dim_(key_)?scale)$", r"\1.weight"),
        ),
        steps=(
            (r"patch_embedder\.input_proj\.weight$", patches),
            (r"per_dim_(key_)?scale\.weight$", softened),
            (r"depthwise_conv1d\.weight$", squeezed),
        ),
        float32=r"^conformer.*(\.conv|_conv.*\.weight)|position_embedding_table",
        stated=lambda seeing: {"image_size": 224},
    ),
    "exaone4_5": _EXAONE,
    "glm46v": _GLM4V,
    "glm4v": _GLM4V,
    "glm4v_moe": _GLM4V,
    "glm_ocr": _GLM4V,
    "glm5_next": _GLM5V,
    "idefics3": _IDEFICS3,
    "internvl": Projector(
        "internvl",
        _TOWER_AND_PROJECTOR,
        (
            (EPSILON, tower("layer_norm_eps")),
            *EITHER,
            (SCALE, lambda seeing: int(1 / seeing.whole["downsample_ratio"])),
            ("add_vision_preproc_min_tiles", some("min_dynamic_patch")),
            ("add_vision_preproc_max_tiles", some("max_dynamic_patch")),
        ),
        renamed=(
            (r"^(?!model\.)", "model."),
            (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
            (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
            (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
            (r"(lambda_[12]|position_embeddings)$", r"\1.weight"),
        ),
        stated=first_side,
    ),
    "kimi_k25": Projector(
        "kimik25",
        r"^(model\.)?(vision_tower|mm_projector)\.",
        (
            ("vision.pos_emb_height", tower("init_pos_emb_height", 64)),
            ("vision.pos_emb_width", tower("init_pos_emb_width", 64)),
            ("vision.pos_emb_time", tower("init_pos_emb_time", 4)),
            ("add_vision_use_gelu", lambda seeing: seeing.tower.get("projector_hidden_act", "gelu") == "gelu"),
            (EPSILON, tower("projector_ln_eps", 1e-5)),
            (SCALE, lambda seeing: seeing.tower.get("merge_kernel_size", [2])[0]),
            ("add_vision_min_pixels", moon_pixels(lambda seeing: 8)),
            ("add_vision_max_pixels", moon_pixels(lambda seeing: seeing.processor.get("in_patch_limit", 16384))),
        ),
        renamed=(
            _PREFIX,
            (r"^vision_tower\.encoder\.patch_embed\.", "vision_tower.patch_embed."),
            (r"^mm_projector\.(proj\.)?(0|linear_1)\.", "mm_projector.proj.linear_1."),
            (r"^mm_projector\.(proj\.)?(2|linear_2)\.", "mm_projector.proj.linear_2."),
        ),
        steps=((r"\.wqkv\.", two_axes),),
        stated=lambda seeing: {
            "image_size": seeing.tower.get("init_pos_emb_height", 64) * seeing.tower.get("patch_size", 14)
        },
    ),
    "lfm2_vl": Projector(
        "lfm2",
        _TOWER_AND_PROJECTOR,
        (
            (EPSILON, tower("layer_norm_eps")),
            (SCALE, whole("downsample_factor", 2)),
            *GELU,
            ("add_vision_block_count", layers_run),
        ),
        renamed=(_PREFIX, _SIGLIP),
        left_out=r"vision_model\.head\.",
        steps=((r"patch_embedding\.weight$", patches),),
        stated=lambda seeing: {"image_size": 256},
    ),
    "lighton_ocr": replace(
        _PIXTRAL,
        kind="lightonocr",
        holds=r"^model\.(vision_encoder|vision_projection)\.",
        renamed=(
            (r"^model\.vision_encoder\.", "vision_tower."),
            (r"^model\.vision_projection\.", "multi_modal_projector."),
        ),
        beside=(),
    ),
    "llama4": Projector(
        "llama4",
        _TOWER_AND_PROJECTOR,
        (
            (EPSILON, tower("norm_eps")),
            (SCALE, lambda seeing: int(1 / seeing.tower["pixel_shuffle_ratio"])),
            *GELU,
        ),
        renamed=(_PREFIX, (r"positional_embedding_vlm$", "positional_embedding_vlm.weight")),
        own=llama4_modules,
    ),
    "llava": _PIXTRAL,
    "mistral3": _PIXTRAL,
    "paddleocr_vl": Projector(
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
    ),
    "qwen2_5_vl": replace(
        _QWEN2,
        kind="qwen2.5vl_merger",
        keys=(*SILU, ("add_vision_n_wa_pattern", windows), *_QWEN2.keys),
    ),
    "qwen2_vl": _QWEN2,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen4_exp": _QWEN3,
    "smolvlm": _IDEFICS3,
}
"""By the model type of config.json."""
