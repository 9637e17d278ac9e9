"""dots.ocr."""

from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import EPSILON, SCALE, SILU, processor, tower

DOTS_OCR = Projector(
    "dots_ocr",
    r"^vision_tower\.",
    (
        ("add_vision_min_pixels", processor("min_pixels")),
        ("add_vision_max_pixels", processor("max_pixels")),
        (EPSILON, tower("rms_norm_eps")),
        (SCALE, tower("spatial_merge_size")),
        *SILU,
    ),
    renamed=(
        (r"^vision_tower\.(blocks\.\d+\.mlp)\.fc1\.", r"visual.\1.gate_proj."),
        (r"^vision_tower\.(blocks\.\d+\.mlp)\.fc2\.", r"visual.\1.down_proj."),
        (r"^vision_tower\.(blocks\.\d+\.mlp)\.fc3\.", r"visual.\1.up_proj."),
    ),
    stated=lambda seeing: {"image_size": 0},  # pictures are read in their own size
)
