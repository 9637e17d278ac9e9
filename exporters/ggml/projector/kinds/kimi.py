"""MoonViT, flat in Kimi-VL, and with time for a third axis in Kimi-K2.5 and GLM-5.2-Vision."""

from collections.abc import Callable

from exporters.ggml.projector.arranging import joined, thirds, two_axes
from exporters.ggml.projector.entry import Config, Projector, Seeing, Value
from exporters.ggml.projector.stated import EPSILON, GELU, PREFIX, SCALE, tower


def _pixels(patches: Callable[[Seeing], int]) -> Value:
    return lambda seeing: patches(seeing) * seeing.tower.get("patch_size", 14) ** 2


def _k25_sizes(seeing: Seeing) -> Config:
    """As published, with names that tell the tower from what is behind it."""
    tower = seeing.tower
    named = {name.removeprefix("vt_"): tower[name] for name in tower if name.startswith("vt_")}
    return {**named, "image_size": tower.get("init_pos_emb_height", 64) * tower.get("patch_size", 14)}


KIMI_K25 = Projector(
    "kimik25",
    r"^(model\.)?(vision_tower|mm_projector)\.",
    (
        ("vision.pos_emb_height", tower("init_pos_emb_height", 64)),
        ("vision.pos_emb_width", tower("init_pos_emb_width", 64)),
        ("vision.pos_emb_time", tower("init_pos_emb_time", 4)),
        ("add_vision_use_gelu", lambda seeing: seeing.tower.get("projector_hidden_act", "gelu") == "gelu"),
        (EPSILON, tower("projector_ln_eps", 1e-5)),
        (SCALE, lambda seeing: seeing.tower.get("merge_kernel_size", [2])[0]),
        ("add_vision_min_pixels", _pixels(lambda seeing: 8)),
        ("add_vision_max_pixels", _pixels(lambda seeing: seeing.processor.get("in_patch_limit", 16384))),
    ),
    renamed=(
        PREFIX,
        (r"^vision_tower\.encoder\.patch_embed\.", "vision_tower.patch_embed."),
        (r"^mm_projector\.(proj\.)?(0|linear_1)\.", "mm_projector.proj.linear_1."),
        (r"^mm_projector\.(proj\.)?(2|linear_2)\.", "mm_projector.proj.linear_2."),
    ),
    steps=((r"\.wqkv\.", two_axes),),
    stated=_k25_sizes,
)
KIMI_VL = Projector(
    "kimivl",
    r"^(vision_tower|multi_modal_projector)\.",
    (*GELU, (SCALE, lambda seeing: 2), (EPSILON, tower("layer_norm_eps", 1e-5))),
    steps=((r"\.pos_emb\.weight$", joined), (r"\.wqkv\.", thirds)),
    stated=lambda seeing: {"image_size": 64 * 14},  # pictures are read in their own size
)
