"""GLM-4.1V to 4.6V and GLM-OCR, and GLM-5-Next."""

from dataclasses import replace

from exporters.ggml.projector.entry import Projector, Seeing, Value
from exporters.ggml.projector.stated import EITHER, EPSILON, FRAMES, MERGED, PREFIX, VISUAL, side_of_positions, tower


def _pixels_of_tokens(name: str) -> Value:
    """Of a number of tokens that the processor states, each of which stands for a square of merged patches."""

    def value(seeing: Seeing) -> int:
        side = seeing.processor.get("patch_size", 14) * seeing.processor.get("merge_size", 2)
        return int(seeing.processor[name] * side**2)

    return value


GLM4V = Projector(
    "glm4v",
    VISUAL,
    (*EITHER, (EPSILON, tower("rms_norm_eps", 1e-5))),
    renamed=(PREFIX,),
    steps=(FRAMES,),
    stated=side_of_positions,
)
GLM5V = replace(
    GLM4V,
    kind="glm5v",
    keys=(
        *GLM4V.keys,
        *MERGED,
        ("clip.vision.swiglu_clamp", lambda seeing: float(seeing.tower["swiglu_limit"])),
        ("add_vision_min_pixels", _pixels_of_tokens("min_image_tokens")),
        ("add_vision_max_pixels", _pixels_of_tokens("max_image_tokens")),
    ),
)
