"""DeepSeek-V4-Flash-Vision."""

from collections.abc import Mapping

from exporters.ggml.projector.arranging import gate_and_up, unflattened
from exporters.ggml.projector.entry import Config, NotRun, Projector, Seeing
from exporters.ggml.projector.stated import EPSILON, SCALE, SILU, tower

_BLOCK = {"attn.wqkv": "attn_qkv", "attn.wo": "attn_out", "norm1": "ln1", "norm2": "ln2"}
_BLOCK |= {"mlp.w1": "ffn_gate", "mlp.w2": "ffn_down"}


def _eyes(whole: Config) -> Config:
    """Of fields beside the language model's own; {} of a checkpoint that does not see."""
    if not whole.get("vision_n_layers"):
        return {}
    side = whole["vision_patch_size"] * whole["vision_downsample_ratio"]
    return {
        "num_hidden_layers": whole["vision_n_layers"],
        "hidden_size": whole["vision_dim"],
        "num_attention_heads": whole["vision_n_heads"],
        "intermediate_size": whole["vision_inter_dim"],
        "patch_size": whole["vision_patch_size"],
        "image_size": 16 * side,  # pictures are read in their own size
        "downsample_ratio": whole["vision_downsample_ratio"],
        "min_pixels": whole["vision_min_pixels"],
    }


def _modules(seeing: Seeing) -> Mapping[str, str]:
    for name, known in (("vision_max_n_token", 384), ("vision_max_wh_ratio", 8)):
        if seeing.whole.get(name) != known:
            raise NotRun(f"{name} is {seeing.whole.get(name)}, and llama.cpp takes {known} for given")
    layers = range(seeing.tower["num_hidden_layers"])
    return {
        "vision.patch_embed.proj": "v.patch_embd",
        **{f"vision.blocks.{n}.{part}": f"v.blk.{n}.{held}" for n in layers for part, held in _BLOCK.items()},
        "vision.norm": "v.post_ln",
        "aligner.w1": "mm.1",
        "aligner.w2": "mm.2",
        "image_newline": "v.image_newline",
        **{f"image_{part}": f"v.token_embd.img_{part}" for part in ("start", "end", "pad")},
    }


DEEPSEEK_V4 = Projector(
    "deepseek4v",
    r"^(vision|aligner)\.|^image_(newline|start|end|pad)$",
    (
        (EPSILON, lambda seeing: 1e-6),  # PyTorch's, not the language model's
        *SILU,
        (SCALE, tower("downsample_ratio")),
        ("add_vision_min_pixels", tower("min_pixels")),
    ),
    eyes=_eyes,
    own=_modules,
    steps=((r"patch_embed\.proj\.weight$", unflattened), (r"\.mlp\.w1\.", gate_and_up)),
    prepared={"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
)
