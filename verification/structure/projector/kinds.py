"""The projectors that are known, by kind: which tensors of a source those of a file are."""

from collections.abc import Mapping
from dataclasses import dataclass

Names = Mapping[str, str]
"""GGUF module -> how the source's ends, "*" for a number; several with "|" between them. Behind " = " stands what is
done to it (see arithmetic.py)."""

_QUERY_KEY_VALUE = ("attn_q", "attn_k", "attn_v")
_ATTENTION: Names = {
    "v.blk.*.attn_q": "layers.*.self_attn.q_proj",
    "v.blk.*.attn_k": "layers.*.self_attn.k_proj",
    "v.blk.*.attn_v": "layers.*.self_attn.v_proj",
}
_SIGLIP: Names = {
    **_ATTENTION,
    "v.blk.*.attn_out": "layers.*.self_attn.out_proj",
    "v.blk.*.ln1": "layers.*.layer_norm1",
    "v.blk.*.ln2": "layers.*.layer_norm2",
    "v.blk.*.ffn_up": "layers.*.mlp.fc1",
    "v.blk.*.ffn_down": "layers.*.mlp.fc2",
    "v.patch_embd": "embeddings.patch_embedding",
    "v.position_embd": "embeddings.position_embedding",
    "v.post_ln": "post_layernorm",
}
_GATED: Names = {
    "v.blk.*.ffn_gate": "blocks.*.mlp.gate_proj",
    "v.blk.*.ffn_up": "blocks.*.mlp.up_proj",
    "v.blk.*.ffn_down": "blocks.*.mlp.down_proj",
}
_FRAMES: Names = {
    "v.patch_embd": "visual.patch_embed.proj = frame 0",
    "v.patch_embd.weight.1": "visual.patch_embed.proj.weight = frame 1",
}
_VISUAL: Names = {
    **_FRAMES,
    "v.blk.*.attn_out": "blocks.*.attn.proj",
    "v.blk.*.ln1": "blocks.*.norm1",
    "v.blk.*.ln2": "blocks.*.norm2",
}
_QWEN2: Names = {
    **_VISUAL,
    **{f"v.blk.*.{name}": f"blocks.*.attn.qkv = third {n}" for n, name in enumerate(_QUERY_KEY_VALUE)},
    "v.blk.*.ffn_up": "blocks.*.mlp.fc1",
    "v.blk.*.ffn_down": "blocks.*.mlp.fc2",
    "v.post_ln": "merger.ln_q",
    "mm.0": "merger.mlp.0",
    "mm.2": "merger.mlp.2",
}
_PIXTRAL: Names = {
    "v.blk.*.attn_q": "layers.*.attention.q_proj = interleaved",
    "v.blk.*.attn_k": "layers.*.attention.k_proj = interleaved",
    "v.blk.*.attn_v": "layers.*.attention.v_proj",
    "v.blk.*.attn_out": "layers.*.attention.o_proj",
    "v.blk.*.ln1": "layers.*.attention_norm",
    "v.blk.*.ln2": "layers.*.ffn_norm",
    "v.blk.*.ffn_gate": "layers.*.feed_forward.gate_proj",
    "v.blk.*.ffn_up": "layers.*.feed_forward.up_proj",
    "v.blk.*.ffn_down": "layers.*.feed_forward.down_proj",
    "v.patch_embd": "patch_conv",
    "v.pre_ln": "ln_pre",
    "mm.input_norm": "multi_modal_projector.norm|vision_projection.norm",
    "mm.patch_merger": "patch_merger.merging_layer",
    "mm.1": "multi_modal_projector.linear_1|vision_projection.linear_1",
    "mm.2": "multi_modal_projector.linear_2|vision_projection.linear_2",
}
_CLIPPED = ("input_min", "input_max", "output_min", "output_max")
_LINEAR_IN_EAR = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.post",
    "ffn_up": "feed_forward1.ffw_layer_1",
    "ffn_down": "feed_forward1.ffw_layer_2",
    "ffn_up_1": "feed_forward2.ffw_layer_1",
    "ffn_down_1": "feed_forward2.ffw_layer_2",
    "conv_pw1": "lconv1d.linear_start",
    "conv_pw2": "lconv1d.linear_end",
}
_LINEAR_IN_TOWER = {
    **{name: f"self_attn.{letter}_proj" for name, letter in zip((*_QUERY_KEY_VALUE, "attn_out"), "qkvo", strict=True)},
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def _clipped(letter: str, tower: str, linears: Mapping[str, str]) -> Names:
    """Linears of Gemma 4, whose weights lie a module deeper than what they are clipped to."""
    return {f"{letter}.blk.*.{name}.weight": f"{tower}.*.{own}.linear.weight" for name, own in linears.items()} | {
        f"{letter}.blk.*.{name}.{kind}": f"{tower}.*.{own}.{kind} = scalar"
        for name, own in linears.items()
        for kind in _CLIPPED
    }


_GEMMA4: Names = {
    **_clipped("v", "vision_tower.encoder.layers", _LINEAR_IN_TOWER),
    "v.blk.*.ln1": "vision_tower.encoder.layers.*.input_layernorm",
    "v.blk.*.ln2": "vision_tower.encoder.layers.*.pre_feedforward_layernorm",
    "v.blk.*.attn_post_norm": "vision_tower.encoder.layers.*.post_attention_layernorm",
    "v.blk.*.ffn_post_norm": "vision_tower.encoder.layers.*.post_feedforward_layernorm",
    "v.blk.*.attn_q_norm": "vision_tower.encoder.layers.*.self_attn.q_norm",
    "v.blk.*.attn_k_norm": "vision_tower.encoder.layers.*.self_attn.k_norm",
    "v.blk.*.out_scale.weight": "vision_tower.encoder.layers.*.layer_scalar = scalar",
    "v.patch_embd": "patch_embedder.input_proj = pixels",
    "v.position_embd.weight": "patch_embedder.position_embedding_table",
    "v.std_bias": "vision_tower.std_bias",
    "v.std_scale": "vision_tower.std_scale",
    "mm.input_projection": "embed_vision.embedding_projection",
    **_clipped("a", "audio_tower.layers", _LINEAR_IN_EAR),
    "a.blk.*.attn_k_rel": "audio_tower.layers.*.self_attn.relative_k_proj",
    "a.blk.*.per_dim_scale.weight": "audio_tower.layers.*.self_attn.per_dim_scale = softplus",
    "a.blk.*.attn_pre_norm": "audio_tower.layers.*.norm_pre_attn",
    "a.blk.*.attn_post_norm": "audio_tower.layers.*.norm_post_attn",
    "a.blk.*.ln2": "audio_tower.layers.*.norm_out",
    "a.blk.*.ffn_norm": "audio_tower.layers.*.feed_forward1.pre_layer_norm",
    "a.blk.*.ffn_post_norm": "audio_tower.layers.*.feed_forward1.post_layer_norm",
    "a.blk.*.ffn_norm_1": "audio_tower.layers.*.feed_forward2.pre_layer_norm",
    "a.blk.*.ffn_post_norm_1": "audio_tower.layers.*.feed_forward2.post_layer_norm",
    "a.blk.*.conv_norm": "audio_tower.layers.*.lconv1d.pre_layer_norm",
    "a.blk.*.conv_dw": "audio_tower.layers.*.lconv1d.depthwise_conv1d = squeeze",
    "a.blk.*.norm_conv": "audio_tower.layers.*.lconv1d.conv_norm",
    "a.conv1d.*": "subsample_conv_projection.layer*.conv",
    "a.conv1d.*.norm": "subsample_conv_projection.layer*.norm",
    "a.input_projection": "subsample_conv_projection.input_proj_linear",
    "a.pre_encode.out": "audio_tower.output_proj",
    "mm.a.input_projection": "embed_audio.embedding_projection",
}
_CONNECTED: Names = {"mm.1": "linear_1", "mm.2": "linear_2"}


@dataclass(frozen=True)
class Kind:
    """A projector. modules: of its tensors. unread: an expression on tensors of the source that llama.cpp's has no use
    for. token: whose row of the embeddings it holds, "" for none."""

    modules: Names
    unread: str = r"(?!)"
    token: str = ""


_GLM4V: Names = {
    **_VISUAL,
    **_GATED,
    "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
    "v.blk.*.attn_q_norm": "blocks.*.attn.q_norm",
    "v.blk.*.attn_k_norm": "blocks.*.attn.k_norm",
    "v.post_ln": "visual.post_layernorm",
    "mm.patch_merger": "visual.downsample",
    "mm.model.fc": "merger.proj",
    "mm.post_norm": "merger.post_projection_norm",
    **{f"mm.{part}": f"merger.{part}_proj" for part in ("gate", "up", "down")},
}

KINDS: Mapping[str, Kind] = {
    "gemma3": Kind(
        {
            **_SIGLIP,
            "mm.input_projection.weight": "mm_input_projection_weight",
            "mm.soft_emb_norm": "mm_soft_emb_norm = plus one",
        },
        unread=r"\.head\.",
    ),
    "gemma4v": Kind(_GEMMA4),
    "exaone4_5": Kind(
        {
            **{name: held for name, held in _QWEN2.items() if not name.startswith("v.blk.*.attn_") or "out" in name},
            **_GATED,
            "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
        }
    ),
    "glm4v": Kind({**_GLM4V, "v.position_embd": "embeddings.position_embedding", "v.norm_embd": "post_conv_layernorm"}),
    "glm5v": Kind(_GLM4V),
    "idefics3": Kind({**_SIGLIP, "mm.model.fc": "modality_projection.proj"}),
    "internvl": Kind(
        {
            "v.class_embd": "embeddings.cls_token",
            "v.patch_embd": "patch_embeddings.projection",
            "v.position_embd.weight": "embeddings.position_embeddings",
            **{f"v.blk.*.{name}": f"layer.*.attention.{name[-1]}_proj" for name in _QUERY_KEY_VALUE},
            "v.blk.*.attn_q_norm": "layer.*.attention.q_norm",
            "v.blk.*.attn_k_norm": "layer.*.attention.k_norm",
            "v.blk.*.attn_out": "layer.*.attention.projection_layer",
            "v.blk.*.ln1": "layer.*.layernorm_before",
            "v.blk.*.ln2": "layer.*.layernorm_after",
            "v.blk.*.ls1.weight": "layer.*.lambda_1",
            "v.blk.*.ls2.weight": "layer.*.lambda_2",
            "v.blk.*.ffn_up": "layer.*.mlp.fc1",
            "v.blk.*.ffn_down": "layer.*.mlp.fc2",
            "mm.model.mlp.0": "multi_modal_projector.layer_norm",
            "mm.model.mlp.1": "multi_modal_projector.linear_1",
            "mm.model.mlp.3": "multi_modal_projector.linear_2",
        }
    ),
    "kimik25": Kind(
        {
            "v.patch_embd": "patch_embed.proj",
            "v.position_embd": "patch_embed.pos_emb",
            "v.blk.*.attn_qkv": "blocks.*.wqkv = axes apart",
            "v.blk.*.attn_out": "blocks.*.wo",
            "v.blk.*.ln1": "blocks.*.norm0",
            "v.blk.*.ln2": "blocks.*.norm1",
            "v.blk.*.ffn_up": "blocks.*.mlp.fc0",
            "v.blk.*.ffn_down": "blocks.*.mlp.fc1",
            "v.post_ln": "encoder.final_layernorm",
            "mm.input_norm": "mm_projector.pre_norm",
            "mm.1": "mm_projector.proj.0|mm_projector.linear_1|mm_projector.proj.linear_1",
            "mm.2": "mm_projector.proj.2|mm_projector.linear_2|mm_projector.proj.linear_2",
        }
    ),
    "lfm2": Kind(
        {
            **_SIGLIP,
            **_CONNECTED,
            "v.patch_embd.weight": "embeddings.patch_embedding.weight = pixels",
            "mm.input_norm": "multi_modal_projector.layer_norm",
        },
        unread=r"\.head\.",
    ),
    "lightonocr": Kind(_PIXTRAL),
    "llama4": Kind(
        {
            **_ATTENTION,
            "v.blk.*.attn_out": "layers.*.self_attn.o_proj",
            "v.blk.*.ln1": "layers.*.input_layernorm",
            "v.blk.*.ln2": "layers.*.post_attention_layernorm",
            "v.blk.*.ffn_up": "layers.*.mlp.fc1",
            "v.blk.*.ffn_down": "layers.*.mlp.fc2",
            "v.class_embd": "vision_model.class_embedding",
            "v.patch_embd": "patch_embedding.linear",
            "v.position_embd.weight": "positional_embedding_vlm",
            "v.pre_ln": "layernorm_pre",
            "v.post_ln": "layernorm_post",
            "mm.model.mlp.1": "vision_adapter.mlp.fc1",
            "mm.model.mlp.2": "vision_adapter.mlp.fc2",
            "mm.model.fc": "multi_modal_projector.linear_1",
        }
    ),
    "paddleocr": Kind(
        {**_SIGLIP, **_CONNECTED, "mm.input_norm": "mlp_AR.pre_norm"},
        unread=r"packing_position_embedding|vision_model\.head",
    ),
    "pixtral": Kind(_PIXTRAL, token="[IMG_BREAK]"),
    "qwen2.5vl_merger": Kind({**_QWEN2, **_GATED}),
    "qwen2vl_merger": Kind(_QWEN2),
    "qwen3vl_merger": Kind(
        {
            **_VISUAL,
            "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
            "v.blk.*.ffn_up": "blocks.*.mlp.linear_fc1",
            "v.blk.*.ffn_down": "blocks.*.mlp.linear_fc2",
            "v.position_embd": "visual.pos_embed",
            "v.post_ln": "visual.merger.norm",
            "mm.0": "visual.merger.linear_fc1",
            "mm.2": "visual.merger.linear_fc2",
            "v.deepstack.*.norm": "deepstack_merger_list.*.norm",
            "v.deepstack.*.fc1": "deepstack_merger_list.*.linear_fc1",
            "v.deepstack.*.fc2": "deepstack_merger_list.*.linear_fc2",
        }
    ),
}
"""By `clip.projector_type`, or `clip.vision.projector_type` of a model that hears too."""
