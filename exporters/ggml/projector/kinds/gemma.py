"""Gemma 3, and Gemma 4 with its unified model, which hear too."""

from exporters.ggml.projector.arranging import by_axis, colors_apart, one_added, patches, softened, squeezed
from exporters.ggml.projector.entry import Config, Projector, Seeing
from exporters.ggml.projector.stated import EPSILON, GELU, PREFIX, SCALE, SIGLIP, TOWER_AND_PROJECTOR, tower


def _gemma3_scale(seeing: Seeing) -> int | None:
    """How many patches become one, along a side; llama.cpp takes 4 for given."""
    side = int(seeing.processor.get("image_seq_length", 256) ** 0.5)
    scale = (seeing.tower["image_size"] // seeing.tower["patch_size"]) // side
    return scale if scale > 0 and scale != 4 else None


def _mel_bins(seeing: Seeing) -> int:
    return int(seeing.ear.get("input_feat_size", 128))


def _ear_epsilon(seeing: Seeing) -> float:
    return float(seeing.ear.get("layer_norm_eps", 1e-6))


GEMMA3 = Projector(
    "gemma3",
    TOWER_AND_PROJECTOR,
    ((EPSILON, tower("layer_norm_eps", 1e-6)), *GELU, (SCALE, _gemma3_scale)),
    renamed=(PREFIX, SIGLIP, (r"_weight$", ".weight")),
    left_out=r"vision_model\.head\.",
    steps=((r"soft_emb_norm\.weight$", one_added),),
    float32=r"\.embeddings\.",
    float16="input_projection",
)
GEMMA4 = Projector(
    "gemma4v",
    r"^model\.(vision_tower|embed_vision|audio_tower|embed_audio)\.",
    ((EPSILON, tower("layer_norm_eps", 1e-6)),),
    hears="gemma4a",
    audio_keys=(
        ("add_audio_feed_forward_length", lambda seeing: 4 * seeing.ear["hidden_size"]),
        ("add_audio_num_mel_bins", _mel_bins),
        ("add_audio_attention_layernorm_eps", _ear_epsilon),
    ),
    renamed=(
        (r"^model\.vision_tower\.encoder\.", "vision_model.model."),
        (r"^model\.audio_tower\.", "conformer."),
        (r"\.linear\.(weight|bias)$", r".\1"),
        (r"(layer_scalar|position_embedding_table|per_dim_(key_)?scale)$", r"\1.weight"),
    ),
    steps=(
        (r"patch_embedder\.input_proj\.weight$", patches),
        (r"per_dim_(key_)?scale\.weight$", softened),
        (r"depthwise_conv1d\.weight$", squeezed),
    ),
    float32=r"^conformer.*(\.conv|_conv.*\.weight)|position_embedding_table",
    stated=lambda seeing: {"image_size": 224},
)


def _no_layers(seeing: Seeing) -> Config:
    """Patches go into the language model as they are embedded."""
    return {
        "image_size": 224,
        "hidden_size": seeing.tower["mm_embed_dim"],
        **dict.fromkeys(("intermediate_size", "num_hidden_layers", "num_attention_heads"), 0),
    }


def _unified_modules(seeing: Seeing) -> Config:
    held = {"patch_dense": "v.patch_embd", "pos_embedding": "v.position_embd", "pos_norm": "v.patch_norm.3"}
    held |= {f"patch_ln{number}": f"v.patch_norm.{number}" for number in (1, 2)}
    return {f"model.vision_embedder.{name}": known for name, known in held.items()}


GEMMA4_UNIFIED = Projector(
    "gemma4uv",
    r"^model\.(vision_embedder|embed_vision|embed_audio)\.",
    (
        (EPSILON, tower("layer_norm_eps", 1e-6)),
        (
            SCALE,
            lambda seeing: None if seeing.tower["pooling_kernel_size"] == 3 else seeing.tower["pooling_kernel_size"],
        ),
    ),
    hears="gemma4ua",
    audio_keys=(
        ("add_audio_embedding_length", lambda seeing: seeing.ear["audio_embed_dim"]),
        *((f"add_audio_{name}", lambda seeing: 0) for name in ("feed_forward_length", "block_count", "head_count")),
        ("add_audio_num_mel_bins", _mel_bins),
        ("add_audio_attention_layernorm_eps", _ear_epsilon),
    ),
    renamed=((r"pos_embedding$", "pos_embedding.weight"),),
    own=_unified_modules,
    steps=(
        (r"pos_embedding\.weight$", by_axis),
        (r"(patch_dense\.weight|patch_ln1\.(weight|bias))$", colors_apart),
    ),
    stated=_no_layers,
)
