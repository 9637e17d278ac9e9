"""Llama 4."""

from collections.abc import Mapping

from exporters.ggml.projector.entry import Projector, Seeing
from exporters.ggml.projector.stated import EPSILON, GELU, PREFIX, SCALE, TOWER_AND_PROJECTOR, tower


def _llama4_modules(seeing: Seeing) -> Mapping[str, str]:
    """gguf-py's table has the second norm of a layer twice, and gives the name of Gemma 4's, which llama.cpp
    applies elsewhere."""
    layers = range(seeing.tower["num_hidden_layers"])
    norms = {f"vision_model.model.layers.{n}.post_attention_layernorm": f"v.blk.{n}.ln2" for n in layers}
    return {"multi_modal_projector.linear_1": "mm.model.fc", **norms}


LLAMA4 = Projector(
    "llama4",
    TOWER_AND_PROJECTOR,
    (
        (EPSILON, tower("norm_eps")),
        (SCALE, lambda seeing: int(1 / seeing.tower["pixel_shuffle_ratio"])),
        *GELU,
    ),
    renamed=(PREFIX, (r"positional_embedding_vlm$", "positional_embedding_vlm.weight")),
    own=_llama4_modules,
)
