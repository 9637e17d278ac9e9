"""What several kinds of projectors take their keys from, and how they name their tensors."""

from typing import Any

from exporters.ggml.projector.arranging import frames
from exporters.ggml.projector.entry import Config, Keys, Seeing, Value


def tower(name: str, default: Any = None) -> Value:
    return lambda seeing: seeing.tower.get(name, default)


def whole(name: str, default: Any = None) -> Value:
    return lambda seeing: seeing.whole.get(name, default)


def processor(name: str) -> Value:
    return lambda seeing: seeing.processor[name]


def yes(seeing: Seeing) -> bool:
    return True


def acts_as(function: str) -> Value:
    return lambda seeing: True if str(seeing.tower.get("hidden_act")).lower() == function else None


EPSILON = "add_vision_attention_layernorm_eps"
GELU: Keys = (("add_vision_use_gelu", yes),)
SILU: Keys = (("add_vision_use_silu", yes),)
EITHER: Keys = (("add_vision_use_gelu", acts_as("gelu")), ("add_vision_use_silu", acts_as("silu")))
MERGED: Keys = (("add_vision_spatial_merge_size", tower("spatial_merge_size")),)
SCALE = "add_vision_projector_scale_factor"

PREFIX = (r"^model\.(?=(visual|vision_tower|vision_model|multi_modal_projector|mm_projector)\.)", "")
SIGLIP = (r"^(vision_tower|model\.vision_tower)\.(?!vision_model\.)", "vision_tower.vision_model.")
"""Names as gguf-py's table has them, for Projector.renamed."""

VISUAL = r"^(model\.)?visual\."
TOWER_AND_PROJECTOR = r"^(model\.)?(vision_tower|vision_model|multi_modal_projector)\."
FRAMES = (r"patch_embed\.proj\.weight$", frames)


def side_of_positions(seeing: Seeing) -> Config:
    """A square picture has as many patches as there are learned positions."""
    side = int(seeing.tower.get("num_position_embeddings", 2304) ** 0.5 * seeing.tower["patch_size"])
    heads, layers = seeing.tower["num_heads"], seeing.tower["depth"]
    return {"image_size": side, **seeing.tower, "num_attention_heads": heads, "num_hidden_layers": layers}


def first_side(seeing: Seeing) -> Config:
    """Sizes that are stated for height and width."""
    sizes = {name: seeing.tower[name] for name in ("image_size", "patch_size")}
    return {name: size[0] if isinstance(size, list | tuple) else size for name, size in sizes.items()}


def some(name: str) -> Value:
    """None for zero too."""
    return lambda seeing: seeing.whole.get(name) or None
