"""InternVL, under transformers' names and the publishers' own (Qianfan-OCR)."""

from exporters.ggml.projector.arranging import thirds
from exporters.ggml.projector.entry import Projector
from exporters.ggml.projector.stated import EITHER, EPSILON, SCALE, first_side, some, tower

INTERNVL = Projector(
    "internvl",
    r"^((model\.)?(vision_tower|multi_modal_projector)|vision_model|mlp1)\.",
    (
        (EPSILON, tower("layer_norm_eps")),
        *EITHER,
        (SCALE, lambda seeing: int(1 / seeing.whole["downsample_ratio"])),
        ("add_vision_preproc_min_tiles", some("min_dynamic_patch")),
        ("add_vision_preproc_max_tiles", some("max_dynamic_patch")),
    ),
    renamed=(
        (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
        (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
        (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.", r"visual.blocks.\1.attn.qkv."),
        (r"^vision_model\.", "vision_tower.vision_model."),
        (r"(lambda_[12]|ls[12]|position_embeddings?)$", r"\1.weight"),
    ),
    steps=((r"\.qkv\.", thirds),),
    stated=first_side,
)
