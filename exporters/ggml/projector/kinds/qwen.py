"""Qwen2-VL to 3.6 and Qwen4-Exp, and EXAONE 4.5, whose tower is Qwen2.5-VL's."""

from collections.abc import Mapping
from dataclasses import replace

from exporters.ggml.projector.arranging import thirds
from exporters.ggml.projector.entry import Config, Projector, Seeing
from exporters.ggml.projector.stated import (
    EPSILON,
    FRAMES,
    GELU,
    MERGED,
    PREFIX,
    SILU,
    VISUAL,
    processor,
    side_of_positions,
    tower,
    whole,
)


def _sizes(seeing: Seeing) -> Config:
    """Of Qwen2-VL, hidden_size is what comes out of the tower; only later ones say how wide their layers are."""
    tower = seeing.tower
    wide = {"intermediate_size": "hidden_size", "hidden_size": "embed_dim"} if "embed_dim" in tower else {}
    return {
        "image_size": tower.get("image_size", 560),
        "num_attention_heads": tower["num_heads"],
        "num_hidden_layers": tower["depth"],
        **{name: tower[stated] for name, stated in wide.items()},
    }


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


QWEN2 = Projector(
    "qwen2vl_merger",
    VISUAL,
    ((EPSILON, whole("rms_norm_eps", 1e-6)),),
    renamed=(PREFIX,),
    steps=(FRAMES, (r"\.qkv\.", thirds)),
    stated=_sizes,
)
QWEN2_5 = replace(QWEN2, kind="qwen2.5vl_merger", keys=(*SILU, ("add_vision_n_wa_pattern", _windows), *QWEN2.keys))
QWEN3 = Projector(
    "qwen3vl_merger",
    VISUAL,
    (
        *GELU,
        *MERGED,
        (EPSILON, lambda seeing: (seeing.whole.get("text_config") or {}).get("rms_norm_eps", 1e-6)),
        ("add_vision_is_deepstack_layers", _deepstack),
    ),
    renamed=(PREFIX,),
    own=_qwen3_modules,
    steps=(FRAMES,),
    stated=side_of_positions,
)
EXAONE = replace(
    QWEN2,
    kind="exaone4_5",
    keys=(
        *SILU,
        ("add_vision_min_pixels", processor("min_pixels")),
        ("add_vision_max_pixels", processor("max_pixels")),
        ("clip.vision.attention.head_count_kv", tower("num_key_value_heads")),
        (EPSILON, lambda seeing: seeing.tower.get("rms_norm_eps", seeing.whole.get("rms_norm_eps", 1e-6))),
        ("add_vision_window_size", tower("window_size")),
        ("add_vision_n_wa_pattern", _windows),
    ),
    steps=(FRAMES,),
)
