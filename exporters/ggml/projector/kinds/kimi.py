"""Kimi-K2.5."""

from collections.abc import Callable

from exporters.ggml.projector.arranging import two_axes
from exporters.ggml.projector.entry import Projector, Seeing, Value
from exporters.ggml.projector.stated import EPSILON, PREFIX, SCALE, tower


def _pixels(patches: Callable[[Seeing], int]) -> Value:
    return lambda seeing: patches(seeing) * seeing.tower.get("patch_size", 14) ** 2


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
    stated=lambda seeing: {
        "image_size": seeing.tower.get("init_pos_emb_height", 64) * seeing.tower.get("patch_size", 14)
    },
)
