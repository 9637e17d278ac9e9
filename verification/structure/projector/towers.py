"""Which tensors of a source those of a projector's file are, of towers that several kinds of projectors share."""

from collections.abc import Mapping

Names = Mapping[str, str]
"""GGUF module -> how the source's ends, "*" for a number; several with "|" between them. Behind " = " stands what is
done to one (see arithmetic.py)."""

QUERY_KEY_VALUE = ("attn_q", "attn_k", "attn_v")
ATTENTION: Names = {
    "v.blk.*.attn_q": "layers.*.self_attn.q_proj",
    "v.blk.*.attn_k": "layers.*.self_attn.k_proj",
    "v.blk.*.attn_v": "layers.*.self_attn.v_proj",
}
SIGLIP: Names = {
    **ATTENTION,
    "v.blk.*.attn_out": "layers.*.self_attn.out_proj",
    "v.blk.*.ln1": "layers.*.layer_norm1",
    "v.blk.*.ln2": "layers.*.layer_norm2",
    "v.blk.*.ffn_up": "layers.*.mlp.fc1",
    "v.blk.*.ffn_down": "layers.*.mlp.fc2",
    "v.patch_embd": "embeddings.patch_embedding",
    "v.position_embd": "embeddings.position_embedding",
    "v.post_ln": "post_layernorm",
}
GATED: Names = {
    "v.blk.*.ffn_gate": "blocks.*.mlp.gate_proj",
    "v.blk.*.ffn_up": "blocks.*.mlp.up_proj",
    "v.blk.*.ffn_down": "blocks.*.mlp.down_proj",
}
FRAMES: Names = {
    "v.patch_embd": "visual.patch_embed.proj = frame 0",
    "v.patch_embd.weight.1": "visual.patch_embed.proj.weight = frame 1",
}
VISUAL: Names = {
    **FRAMES,
    "v.blk.*.attn_out": "blocks.*.attn.proj",
    "v.blk.*.ln1": "blocks.*.norm1",
    "v.blk.*.ln2": "blocks.*.norm2",
}
QWEN2: Names = {
    **VISUAL,
    **{f"v.blk.*.{name}": f"blocks.*.attn.qkv = third {n}" for n, name in enumerate(QUERY_KEY_VALUE)},
    "v.blk.*.ffn_up": "blocks.*.mlp.fc1",
    "v.blk.*.ffn_down": "blocks.*.mlp.fc2",
    "v.post_ln": "merger.ln_q",
    "mm.0": "merger.mlp.0",
    "mm.2": "merger.mlp.2",
}
PIXTRAL: Names = {
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
    **{name: f"self_attn.{letter}_proj" for name, letter in zip((*QUERY_KEY_VALUE, "attn_out"), "qkvo", strict=True)},
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def _clipped(letter: str, tower: str, linears: Mapping[str, str]) -> Names:
    """Linears of Gemma 4, whose weights lie a module deeper than what they are clipped to."""
    return {f"{letter}.blk.*.{name}.weight": f"{tower}.*.{own}.linear.weight" for name, own in linears.items()} | {
        f"{letter}.blk.*.{name}.{kind}": f"{tower}.*.{own}.{kind} = scalar"
        for name, own in linears.items()
        for kind in _CLIPPED
    }


GEMMA4: Names = {
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
CONNECTED: Names = {"mm.1": "linear_1", "mm.2": "linear_2"}
GLM4V: Names = {
    **VISUAL,
    **GATED,
    "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
    "v.blk.*.attn_q_norm": "blocks.*.attn.q_norm",
    "v.blk.*.attn_k_norm": "blocks.*.attn.k_norm",
    "v.post_ln": "visual.post_layernorm",
    "mm.patch_merger": "visual.downsample",
    "mm.model.fc": "merger.proj",
    "mm.post_norm": "merger.post_projection_norm",
    **{f"mm.{part}": f"merger.{part}_proj" for part in ("gate", "up", "down")},
}

MOONVIT: Names = {
    "v.patch_embd": "patch_embed.proj",
    "v.blk.*.attn_out": "blocks.*.wo",
    "v.blk.*.ln1": "blocks.*.norm0",
    "v.blk.*.ln2": "blocks.*.norm1",
    "v.blk.*.ffn_up": "blocks.*.mlp.fc0",
    "v.blk.*.ffn_down": "blocks.*.mlp.fc1",
    "v.post_ln": "encoder.final_layernorm",
}

WHISPER: Names = {
    **{f"a.conv1d.{n}.weight": f"audio_tower.conv{n}.weight" for n in (1, 2)},
    **{f"a.conv1d.{n}.bias": f"audio_tower.conv{n}.bias = column" for n in (1, 2)},
    "a.position_embd": "audio_tower.embed_positions",
    **{f"a.blk.*.{name}": f"layers.*.self_attn.{name[-1]}_proj" for name in QUERY_KEY_VALUE},
    "a.blk.*.attn_out": "layers.*.self_attn.out_proj",
    "a.blk.*.ln1": "layers.*.self_attn_layer_norm",
    "a.blk.*.ln2": "layers.*.final_layer_norm",
    "a.blk.*.ffn_up": "layers.*.fc1",
    "a.blk.*.ffn_down": "layers.*.fc2",
    "a.post_ln": "audio_tower.layer_norm",
}
