"""Pixtral's tower: Pixtral itself, Mistral 3 and LightOnOCR."""

from dataclasses import replace

from exporters.ggml.projector.arranging import rotated, token
from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import EITHER, EPSILON, PREFIX, TOWER_AND_PROJECTOR, tower, whole

PIXTRAL = Projector(
    "pixtral",
    TOWER_AND_PROJECTOR,
    (
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        *EITHER,
        ("add_vision_spatial_merge_size", whole("spatial_merge_size")),
    ),
    tower="pixtral",
    renamed=(PREFIX,),
    beside=((r"embed_tokens\.weight$", "v.token_embd.img_break"),),
    steps=((r"[qk]_proj\.(weight|bias)$", rotated), (r"embed_tokens\.weight$", token("[IMG_BREAK]"))),
)
LIGHTON = replace(
    PIXTRAL,
    kind="lightonocr",
    holds=r"^model\.(vision_encoder|vision_projection)\.",
    renamed=(
        (r"^model\.vision_encoder\.", "vision_tower."),
        (r"^model\.vision_projection\.", "multi_modal_projector."),
    ),
    beside=(),
)
