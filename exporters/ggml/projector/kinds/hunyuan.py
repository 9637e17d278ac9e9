"""HunyuanOCR."""

from exporters.ggml.projector.arranging import second_row_on
from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import EPSILON, GELU, processor, tower

HUNYUAN = Projector(
    "hunyuanvl",
    r"^(model\.)?vit\.",
    (
        *GELU,
        (EPSILON, tower("rms_norm_eps", 1e-5)),
        ("add_vision_spatial_merge_size", tower("spatial_merge_size", 2)),
        ("add_vision_min_pixels", processor("min_pixels")),
        ("add_vision_max_pixels", processor("max_pixels")),
    ),
    renamed=((r"^model\.vit\.", "vit."),),
    steps=((r"position_embedding\.weight$", second_row_on),),
    convolved=r"perceive\.proj\.",
    stated=lambda seeing: {"image_size": seeing.tower.get("max_image_size", 2048)},
)
