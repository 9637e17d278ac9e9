"""Step-3.7 and Step3-VL."""

from exporters.ggml.projector.entry import Config, NotRun, Projector, Seeing
from exporters.ggml.projector.stated import EPSILON, SCALE, tower


def _step_scale(seeing: Seeing) -> int:
    """How many patches become one, along a side, by two convolutions of the same stride."""
    stride = seeing.whole.get("understand_projector_stride", 2)
    if stride != 2:
        raise NotRun(f"understand_projector_stride is {stride}, and llama.cpp's projector for Step moves by 2")
    return 4


def _sizes(seeing: Seeing) -> Config:
    tower = seeing.tower
    wide = tower.get("hidden_size", tower.get("width"))
    return {"intermediate_size": round(wide * tower.get("mlp_ratio", 8960 / 1536)), **tower}


STEP = Projector(
    "step3vl",
    r"^(model\.)?(vision_model|vit_large_projector)\.",
    (
        (EPSILON, tower("layer_norm_eps", 1e-5)),
        (SCALE, _step_scale),
        ("add_vision_preproc_image_size", lambda seeing: 3024),  # of the publisher's processor, which is code
    ),
    renamed=(
        (r"^model\.", ""),
        (r"positional_embedding$", "positional_embedding.weight"),
        (r"\.(ls_[12])\.gamma$", r".\1.weight"),
        (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
    ),
    own=lambda seeing: {
        "vision_model.vit_downsampler1": "mm.0",
        "vision_model.vit_downsampler2": "mm.1",
        "vit_large_projector": "mm.model.fc",
    },
    convolved=r"vit_downsampler",
    stated=_sizes,
    prepared={
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
)
