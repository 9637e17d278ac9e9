"""What projectors' keys are taken from: config.json, its vision_config and the processor's files."""

from collections.abc import Callable, Mapping
from typing import Any

from exporters.ggml.projector.entry import Config, Keys, Seeing

Value = Callable[[Seeing], Any]


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


def qwen_sizes(seeing: Seeing) -> Config:
    """Of Qwen2-VL, hidden_size is what comes out of the tower; only later ones say how wide their layers are."""
    tower = seeing.tower
    wide = {"intermediate_size": "hidden_size", "hidden_size": "embed_dim"} if "embed_dim" in tower else {}
    return {
        "image_size": tower.get("image_size", 560),
        "num_attention_heads": tower["num_heads"],
        "num_hidden_layers": tower["depth"],
        **{name: tower[stated] for name, stated in wide.items()},
    }


def side_of_positions(seeing: Seeing) -> Config:
    """A square picture has as many patches as there are learned positions."""
    side = int(seeing.tower.get("num_position_embeddings", 2304) ** 0.5 * seeing.tower["patch_size"])
    heads, layers = seeing.tower["num_heads"], seeing.tower["depth"]
    return {"image_size": side, **seeing.tower, "num_attention_heads": heads, "num_hidden_layers": layers}


def windows(seeing: Seeing) -> int:
    """Every how many layers one sees the whole picture."""
    return int(seeing.tower["fullatt_block_indexes"][0]) + 1


def deepstack(seeing: Seeing) -> list[bool]:
    taken = seeing.tower.get("deepstack_visual_indexes") or ()
    return [layer in taken for layer in range(seeing.tower["depth"])]


def qwen3_modules(seeing: Seeing) -> Mapping[str, str]:
    parts = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
    return {
        "visual.merger.norm": "v.post_ln",
        "visual.merger.linear_fc1": "mm.0",
        "visual.merger.linear_fc2": "mm.2",
        **{
            f"visual.deepstack_merger_list.{number}.{part}": f"v.deepstack.{layer}.{held}"
            for number, layer in enumerate(seeing.tower.get("deepstack_visual_indexes") or ())
            for part, held in parts.items()
        },
    }


def llama4_modules(seeing: Seeing) -> Mapping[str, str]:
    """gguf-py's table has the second norm of a layer twice, and gives the name of Gemma 4's, which llama.cpp
    applies elsewhere."""
    layers = range(seeing.tower["num_hidden_layers"])
    norms = {f"vision_model.model.layers.{n}.post_attention_layernorm": f"v.blk.{n}.ln2" for n in layers}
    return {"multi_modal_projector.linear_1": "mm.model.fc", **norms}


def gemma3_scale(seeing: Seeing) -> int | None:
    """How many patches become one, along a side; llama.cpp takes 4 for given."""
    side = int(seeing.processor.get("image_seq_length", 256) ** 0.5)
    scale = (seeing.tower["image_size"] // seeing.tower["patch_size"]) // side
    return scale if scale > 0 and scale != 4 else None


def first_side(seeing: Seeing) -> Config:
    """Sizes that are stated for height and width."""
    sizes = {name: seeing.tower[name] for name in ("image_size", "patch_size")}
    return {name: size[0] if isinstance(size, list | tuple) else size for name, size in sizes.items()}


def some(name: str) -> Value:
    """None for zero too."""
    return lambda seeing: seeing.whole.get(name) or None


def longest(seeing: Seeing) -> Any:
    return (seeing.processor.get("size") or {}).get("longest_edge", seeing.tower["image_size"])


def pixels_of_tokens(name: str) -> Value:
    """Of a number of tokens that the processor states, each of which stands for a square of merged patches."""

    def value(seeing: Seeing) -> int:
        side = seeing.processor.get("patch_size", 14) * seeing.processor.get("merge_size", 2)
        return int(seeing.processor[name] * side**2)

    return value


def moon_pixels(patches_at_least: Callable[[Seeing], int]) -> Value:
    return lambda seeing: patches_at_least(seeing) * seeing.tower.get("patch_size", 14) ** 2


def layers_run(seeing: Seeing) -> int:
    """Up to the one whose outputs are taken; -1 is the last."""
    return int(seeing.tower["num_hidden_layers"]) + seeing.whole.get("vision_feature_layer", -1) + 1
