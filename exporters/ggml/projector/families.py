"""The projectors that are known, by transformers' model type. One entry a kind; what differs by family is a line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

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
from exporters.ggml.projector.entry import Config, Keys, Projector, Seeing

Value = Callable[[Seeing], Any]


def _tower(name: str, default: Any = None) -> Value:
    return lambda seeing: seeing.tower.get(name, default)


def _whole(name: str, default: Any = None) -> Value:
    return lambda seeing: seeing.whole.get(name, default)


def _processor(name: str) -> Value:
    return lambda seeing: seeing.processor[name]


def _yes(seeing: Seeing) -> bool:
    return True


def _acts_as(function: str) -> Value:
    return lambda seeing: True if str(seeing.tower.get("hidden_act")).lower() == function else None


_EPSILON = "add_vision_attention_layernorm_eps"
_GELU: Keys = (("add_vision_use_gelu", _yes),)
_SILU: Keys = (("add_vision_use_silu", _yes),)
_EITHER: Keys = (("add_vision_use_gelu", _acts_as("gelu")), ("add_vision_use_silu", _acts_as("silu")))
_MERGED: Keys = (("add_vision_spatial_merge_size", _tower("spatial_merge_size")),)
_SCALE = "add_vision_projector_scale_factor"


def _qwen_sizes(seeing: Seeing) -> Config:
    """Of Qwen2-VL, hidden_size is what comes out of the tower; only later ones say how wide their layers are."""
    tower = seeing.tower
    wide = {"intermediate_size": "hidden_size", "hidden_size": "embed_dim"} if "embed_dim" in tower else {}
    return {
        "image_size": tower.get("image_size", 560),
        "num_attention_heads": tower["num_heads"],
        "num_hidden_layers": tower["depth"],
        **{name: tower[stated] for name, stated in wide.items()},
    }


def _side_of_positions(seeing: Seeing) -> Config:
    """A square picture has as many patches as there are learned positions."""
    side = int(seeing.tower.get("num_position_embeddings", 2304) ** 0.5 * seeing.tower["patch_size"])
    heads, layers = seeing.tower["num_heads"], seeing.tower["depth"]
    return {"image_size": side, **seeing.tower, "num_attention_heads": heads, "num_hidden_layers": layers}


def _windows(seeing: Seeing) -> int:
    """Every how many layers one sees the whole picture."""
    return int(seeing.tower["fullatt_block_indexes"][0]) + 1


def _deepstack(seeing: Seeing) -> list[bool]:
    taken = seeing.tower.get("deepstack_visual_indexes") or ()
    return [layer in taken for layer in range(seeing.tower["depth"])]


def _qwen3_modules(seeing: Seeing) -> Mapping[str, str]:
    parts = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
    return {
        "visual.merger.norm": "v.post_ln",
        "visual.merger.linear_fc1": "mm.0",
        "visual.merger.linear_fc2": "mm.2",
        **{
            f"visual.deepstack_merger_list.{number}.{part}": f"v.deepstack.{layer}.{held}"
            for number, layer in enumerate(seeing.tower.get("deepstack_visual_indexes") or ())
            for part, held in parts.items()
        },
    }


def _llama4_modules(seeing: Seeing) -> Mapping[str, str]:
    """gguf-py's table has the second norm of a layer twice, and gives the name of Gemma 4's, which llama.cpp
    applies elsewhere."""
    layers = range(seeing.tower["num_hidden_layers"])
    norms = {f"vision_model.model.layers.{n}.post_attention_layernorm": f"v.blk.{n}.ln2" for n in layers}
    return {"multi_modal_projector.linear_1": "mm.model.fc", **norms}


def _gemma3_scale(seeing: Seeing) -> int | None:
    """How many patches become one, along a side; llama.cpp takes 4 for given."""
    side = int(seeing.processor.get("image_seq_length", 256) ** 0.5)
    scale = (seeing.tower["image_size"] // seeing.tower["patch_size"]) // side
    return scale if scale > 0 and scale != 4 else None


def _first_side(seeing: Seeing) -> Config:
    """Sizes that are stated for height and width."""
    sizes = {name: seeing.tower[name] for name in ("image_size", "patch_size")}
    return {name: size[0] if isinstance(size, list | tuple) else size for name, size in sizes.items()}


def _some(name: str) -> Value:
    """None for zero too."""
    return lambda seeing: seeing.whole.get(name) or None


def _longest(seeing: Seeing) -> Any:
    return (seeing.processor.get("size") or {}).get("longest_edge", seeing.tower["image_size"])


def _moon_pixels(patches_at_least: Callable[[Seeing], int]) -> Value:
    return lambda seeing: patches_at_least(seeing) * seeing.tower.get("patch_size", 14) ** 2


def _layers_run(seeing: Seeing) -> int:
    """Up to the one whose outputs are taken; -1 is the last."""
    return int(seeing.tower["num_hidden_layers"]) + seeing.whole.get("vision_feature_layer", -1) + 1


_PREFIX = (r"^model\.(?=(visual|vision_tower|vision_model|multi_modal_projector|mm_projector)\.)", "")
_VISUAL = r"^(model\.)?visual\."
_FRAMES = (r"patch_embed\.proj\.weight$", frames)
_QWEN2 = Projector(
    "qwen2vl_merger",
    _VISUAL,
    ((_EPSILON, _whole("rms_norm_eps", 1e-6)),),
    renamed=(_PREFIX,),
    steps=(_FRAMES, (r"\.qkv\.", thirds)),
    stated=_qwen_sizes,
)
_QWEN3 = Projector(
    "qwen3vl_merger",
    _VISUAL,
    (
        *_GELU,
        *_MERGED,
        (_EPSILON, lambda seeing: (seeing.whole.get("text_config") or {}).get("rms_norm_eps", 1e-6)),
        ("add_vision_is_deepstack_layers", _deepstack),
    ),
    renamed=(_PREFIX,),
    own=_qwen3_modules,
    steps=(_FRAMES,),
    stated=_side_of_positions,
)
_SIGLIP = (r"^(vision_tower|model\.vision_tower)\.(?!vision_model\.)", "vision_tower.vision_model.")
_TOWER_AND_PROJECTOR = r"^(model\.)?(vision_tower|vision_model|multi_modal_projector)\."
_PIXTRAL = Projector(
    "pixtral",
    _TOWER_AND_PROJECTOR,
    (
        (_EPSILON, _tower("layer_norm_eps", 1e-5)),
        *_EITHER,
        ("add_vision_spatial_merge_size", _whole("spatial_merge_size")),
    ),
    tower="pixtral",
    renamed=(_PREFIX,),
    beside=((r"embed_tokens\.weight$", "v.token_embd.img_break"),),
    steps=((r"[qk]_proj\.(weight|bias)$", rotated), (r"embed_tokens\.weight$", token("[IMG_BREAK]"))),
)
_GLM4V = Projector(
    "glm4v",
    _VISUAL,
    (*_EITHER, (_EPSILON, _tower("rms_norm_eps", 1e-5))),
    renamed=(_PREFIX,),
    steps=(_FRAMES,),
    stated=_side_of_positions,
)
_IDEFICS3 = Projector(
    "idefics3",
    r"^model\.(vision_model|connector)\.",
    (
        (_EPSILON, _tower("layer_norm_eps", 1e-5)),
        (_SCALE, _whole("scale_factor", 2)),
        *_GELU,
        ("add_vision_preproc_image_size", _longest),
    ),
    float32=r"\.embeddings\.",
)

PROJECTORS: Mapping[str, Projector] = {
    "gemma3": Projector(
        "gemma3",
        _TOWER_AND_PROJECTOR,
        ((_EPSILON, _tower("layer_norm_eps", 1e-6)), *_GELU, (_SCALE, _gemma3_scale)),
        renamed=(_PREFIX, _SIGLIP, (r"_weight$", ".weight")),
        left_out=r"vision_model\.head\.",
        steps=((r"soft_emb_norm\.weight$", one_added),),
        float32=r"\.embeddings\.",
        float16="input_projection",
    ),
    "gemma4": Projector(
        "gemma4v",
        r"^model\.(vision_tower|embed_vision|audio_tower|embed_audio)\.",
        ((_EPSILON, _tower("layer_norm_eps", 1e-6)),),
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
    "glm46v": _GLM4V,
    "glm4v": _GLM4V,
    "glm4v_moe": _GLM4V,
    "idefics3": _IDEFICS3,
    "internvl": Projector(
        "internvl",
        _TOWER_AND_PROJECTOR,
        (
            (_EPSILON, _tower("layer_norm_eps")),
            *_EITHER,
            (_SCALE, lambda seeing: int(1 / seeing.whole["downsample_ratio"])),
            ("add_vision_preproc_min_tiles", _some("min_dynamic_patch")),
            ("add_vision_preproc_max_tiles", _some("max_dynamic_patch")),
        ),
        renamed=(
            (r"^(?!model\.)", "model."),
            (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
            (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
            (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
            (r"(lambda_[12]|position_embeddings)$", r"\1.weight"),
        ),
        stated=_first_side,
    ),
    "kimi_k25": Projector(
        "kimik25",
        r"^(model\.)?(vision_tower|mm_projector)\.",
        (
            ("vision.pos_emb_height", _tower("init_pos_emb_height", 64)),
            ("vision.pos_emb_width", _tower("init_pos_emb_width", 64)),
            ("vision.pos_emb_time", _tower("init_pos_emb_time", 4)),
            ("add_vision_use_gelu", lambda seeing: seeing.tower.get("projector_hidden_act", "gelu") == "gelu"),
            (_EPSILON, _tower("projector_ln_eps", 1e-5)),
            (_SCALE, lambda seeing: seeing.tower.get("merge_kernel_size", [2])[0]),
            ("add_vision_min_pixels", _moon_pixels(lambda seeing: 8)),
            ("add_vision_max_pixels", _moon_pixels(lambda seeing: seeing.processor.get("in_patch_limit", 16384))),
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
            (_EPSILON, _tower("layer_norm_eps")),
            (_SCALE, _whole("downsample_factor", 2)),
            *_GELU,
            ("add_vision_block_count", _layers_run),
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
            (_EPSILON, _tower("norm_eps")),
            (_SCALE, lambda seeing: int(1 / seeing.tower["pixel_shuffle_ratio"])),
            *_GELU,
        ),
        renamed=(_PREFIX, (r"positional_embedding_vlm$", "positional_embedding_vlm.weight")),
        own=_llama4_modules,
    ),
    "llava": _PIXTRAL,
    "mistral3": _PIXTRAL,
    "paddleocr_vl": Projector(
        "paddleocr",
        r"^(model\.)?(visual|mlp_AR)\.",
        (
            ("add_vision_max_pixels", _processor("max_pixels")),
            ("add_vision_min_pixels", _processor("min_pixels")),
            *_GELU,
            (_EPSILON, _tower("rms_norm_eps", 1e-6)),
        ),
        renamed=((r"^(model\.)?visual\.", "model."), (r"^model\.mlp_AR\.", "mlp_AR.")),
        left_out=r"packing_position_embedding|vision_model\.head",
        stated=lambda seeing: {"image_size": int(seeing.processor["max_pixels"] ** 0.5)},
    ),
    "qwen2_5_vl": replace(
        _QWEN2,
        kind="qwen2.5vl_merger",
        keys=(*_SILU, ("add_vision_n_wa_pattern", _windows), *_QWEN2.keys),
    ),
    "qwen2_vl": _QWEN2,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "smolvlm": _IDEFICS3,
}
"""By the model type of config.json."""
