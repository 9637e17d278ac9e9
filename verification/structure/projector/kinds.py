"""The projectors that are known, by kind: which tensors of a source those of a file are."""

from collections.abc import Mapping
from dataclasses import dataclass

from verification.structure.projector.towers import (
    ATTENTION,
    CONNECTED,
    GATED,
    GEMMA4,
    GLM4V,
    MOONVIT,
    PIXTRAL,
    QUERY_KEY_VALUE,
    QWEN2,
    SIGLIP,
    VISUAL,
    WHISPER,
    Names,
)


@dataclass(frozen=True)
class Kind:
    """A projector. modules: of its tensors. unread: an expression on tensors of the source that llama.cpp's has no use
    for; last_unread: nor for the tower's last layer. token: whose row of the embeddings it holds, "" for none.
    convolved: modules that llama.cpp convolves with, beside the patches'."""

    modules: Names
    unread: str = r"(?!)"
    last_unread: bool = False
    token: str = ""
    convolved: tuple[str, ...] = ()


_TWO_LAYERS_BEHIND_WHISPER = {**WHISPER, **{f"mm.a.mlp.{n}": f"multi_modal_projector.linear_{n}" for n in (1, 2)}}

KINDS: Mapping[str, Kind] = {
    "deepseek4v": Kind(
        {
            "v.patch_embd": "vision.patch_embed.proj = unflattened",
            "v.blk.*.attn_qkv": "vision.blocks.*.attn.wqkv",
            "v.blk.*.attn_out": "vision.blocks.*.attn.wo",
            "v.blk.*.ln1": "vision.blocks.*.norm1",
            "v.blk.*.ln2": "vision.blocks.*.norm2",
            "v.blk.*.ffn_gate": "vision.blocks.*.mlp.w1 = half 0",
            "v.blk.*.ffn_up": "vision.blocks.*.mlp.w1 = half 1",
            "v.blk.*.ffn_down": "vision.blocks.*.mlp.w2",
            "v.post_ln": "vision.norm",
            "v.image_newline": "image_newline",
            **{f"v.token_embd.img_{part}": f"image_{part}" for part in ("start", "end", "pad")},
            "mm.1": "aligner.w1",
            "mm.2": "aligner.w2",
        }
    ),
    "dots_ocr": Kind(
        {
            "v.patch_embd": "patchifier.proj",
            "v.pre_ln": "patchifier.norm",
            "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
            "v.blk.*.attn_out": "blocks.*.attn.proj",
            "v.blk.*.ln1": "blocks.*.norm1",
            "v.blk.*.ln2": "blocks.*.norm2",
            "v.blk.*.ffn_gate": "blocks.*.mlp.fc1",
            "v.blk.*.ffn_down": "blocks.*.mlp.fc2",
            "v.blk.*.ffn_up": "blocks.*.mlp.fc3",
            "mm.post_norm": "vision_tower.post_trunk_norm",
            "mm.input_norm": "merger.ln_q",
            "mm.0": "merger.mlp.0",
            "mm.2": "merger.mlp.2",
        }
    ),
    "gemma3": Kind(
        {
            **SIGLIP,
            "mm.input_projection.weight": "mm_input_projection_weight",
            "mm.soft_emb_norm": "mm_soft_emb_norm = plus one",
        },
        unread=r"\.head\.",
    ),
    "gemma4v": Kind(GEMMA4),
    "gemma4uv": Kind(
        {
            "v.patch_embd.weight": "vision_embedder.patch_dense.weight = colors apart",
            "v.patch_embd.bias": "vision_embedder.patch_dense.bias",
            "v.patch_norm.1": "vision_embedder.patch_ln1 = colors apart",
            "v.patch_norm.2": "vision_embedder.patch_ln2",
            "v.patch_norm.3": "vision_embedder.pos_norm",
            "v.position_embd.weight": "vision_embedder.pos_embedding = by axis",
            "mm.input_projection": "embed_vision.embedding_projection",
            "mm.a.input_projection": "embed_audio.embedding_projection",
        }
    ),
    "exaone4_5": Kind(
        {
            **{name: held for name, held in QWEN2.items() if not name.startswith("v.blk.*.attn_") or "out" in name},
            **GATED,
            "v.blk.*.attn_qkv": "blocks.*.attn.qkv",
        }
    ),
    "glm4v": Kind({**GLM4V, "v.position_embd": "embeddings.position_embedding", "v.norm_embd": "post_conv_layernorm"}),
    "glm5v": Kind(GLM4V),
    "idefics3": Kind({**SIGLIP, "mm.model.fc": "modality_projection.proj"}),
    "hunyuanvl": Kind(
        {
            **ATTENTION,
            "v.blk.*.attn_out": "layers.*.self_attn.o_proj",
            "v.blk.*.ln1": "layers.*.input_layernorm",
            "v.blk.*.ln2": "layers.*.post_attention_layernorm",
            "v.blk.*.ffn_up": "layers.*.mlp.dense_h_to_4h",
            "v.blk.*.ffn_down": "layers.*.mlp.dense_4h_to_h",
            "v.patch_embd": "vit.embeddings.patch_embedding",
            "v.position_embd.weight": "vit.embeddings.position_embedding.weight = from the second",
            "v.image_newline": "perceive.image_newline",
            "v.view_seperator": "perceive.image_sep",
            "mm.image_begin": "perceive.image_begin",
            "mm.image_end": "perceive.image_end",
            "mm.pre_norm": "perceive.before_rms",
            "mm.0": "perceive.proj.0",
            "mm.2": "perceive.proj.2",
            "mm.model.fc": "perceive.mlp",
            "mm.post_norm": "perceive.after_rms",
        },
        convolved=("mm.0", "mm.2"),
    ),
    "internvl": Kind(
        {
            "v.class_embd": "embeddings.cls_token|embeddings.class_embedding",
            "v.patch_embd": "patch_embeddings.projection|embeddings.patch_embedding",
            "v.position_embd.weight": "embeddings.position_embeddings|embeddings.position_embedding",
            **{
                f"v.blk.*.{name}": f"layer.*.attention.{name[-1]}_proj|layers.*.attn.qkv = third {n}"
                for n, name in enumerate(QUERY_KEY_VALUE)
            },
            "v.blk.*.attn_q_norm": "layer.*.attention.q_norm|layers.*.attn.q_norm",
            "v.blk.*.attn_k_norm": "layer.*.attention.k_norm|layers.*.attn.k_norm",
            "v.blk.*.attn_out": "layer.*.attention.projection_layer|layers.*.attn.proj",
            "v.blk.*.ln1": "layer.*.layernorm_before|layers.*.norm1",
            "v.blk.*.ln2": "layer.*.layernorm_after|layers.*.norm2",
            "v.blk.*.ls1.weight": "layer.*.lambda_1|layers.*.ls1",
            "v.blk.*.ls2.weight": "layer.*.lambda_2|layers.*.ls2",
            "v.blk.*.ffn_up": "layer.*.mlp.fc1|layers.*.mlp.fc1",
            "v.blk.*.ffn_down": "layer.*.mlp.fc2|layers.*.mlp.fc2",
            "mm.model.mlp.0": "multi_modal_projector.layer_norm|mlp1.0",
            "mm.model.mlp.1": "multi_modal_projector.linear_1|mlp1.1",
            "mm.model.mlp.3": "multi_modal_projector.linear_2|mlp1.3",
        }
    ),
    "janus_pro": Kind(
        {
            **SIGLIP,
            "v.blk.*.attn_out": "layers.*.self_attn.projection_layer",
            "mm.0": "aligner.fc1",
            "mm.1": "aligner.hidden_layers.0",
        },
        unread=r"vqmodel\.|generation_\w+\.",  # what it draws with
    ),
    "kimik25": Kind(
        {
            **MOONVIT,
            "v.position_embd": "patch_embed.pos_emb",
            "v.blk.*.attn_qkv": "blocks.*.wqkv = axes apart",
            "mm.input_norm": "mm_projector.pre_norm",
            "mm.1": "mm_projector.proj.0|mm_projector.linear_1|mm_projector.proj.linear_1",
            "mm.2": "mm_projector.proj.2|mm_projector.linear_2|mm_projector.proj.linear_2",
        }
    ),
    "kimivl": Kind(
        {
            **MOONVIT,
            **{f"v.blk.*.{name}": f"blocks.*.wqkv = third {n}" for n, name in enumerate(QUERY_KEY_VALUE)},
            "v.position_embd.weight": "patch_embed.pos_emb.weight = joined",
            "mm.input_norm": "multi_modal_projector.pre_norm",
            "mm.1": "multi_modal_projector.linear_1",
            "mm.2": "multi_modal_projector.linear_2",
        }
    ),
    "lfm2": Kind(
        {
            **SIGLIP,
            **CONNECTED,
            "v.patch_embd.weight": "embeddings.patch_embedding.weight = pixels",
            "mm.input_norm": "multi_modal_projector.layer_norm",
        },
        unread=r"\.head\.",
    ),
    "lightonocr": Kind(PIXTRAL),
    "llama4": Kind(
        {
            **ATTENTION,
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
    "minicpmv4_6": Kind(
        {
            **SIGLIP,
            "v.vit_merger.ln1": "vit_merger.layer_norm1",
            **{f"v.vit_merger.attn_{part}": f"vit_merger.self_attn.{part}_proj" for part in ("q", "k", "v", "out")},
            "v.vit_merger.ds_ln": "vit_merger.pre_norm",
            "v.vit_merger.ds_ffn_up": "vit_merger.linear_1",
            "v.vit_merger.ds_ffn_down": "vit_merger.linear_2",
            "mm.input_norm": "model.merger.mlp.0.pre_norm",
            "mm.up": "model.merger.mlp.0.linear_1",
            "mm.down": "model.merger.mlp.0.linear_2",
        }
    ),
    "minimax_m3": Kind(
        {
            **SIGLIP,
            **CONNECTED,
            "v.blk.*.attn_q": "layers.*.self_attn.q_proj = three axes",
            "v.blk.*.attn_k": "layers.*.self_attn.k_proj = three axes",
            "v.blk.*.ffn_up": "layers.*.mlp.fc1|layers.*.block_sparse_moe.fc1",
            "v.blk.*.ffn_down": "layers.*.mlp.fc2|layers.*.block_sparse_moe.fc2",
            "v.patch_embd": "embeddings.patch_embedding = frame 0",
            "v.patch_embd.weight.1": "embeddings.patch_embedding.weight = frame 1",
            "v.pre_ln": "vision_model.pre_layrnorm",
            "mm.1": "multi_modal_projector.linear_1",
            "mm.2": "multi_modal_projector.linear_2",
            "mm.merger.fc1": "patch_merge_mlp.linear_1",
            "mm.merger.fc2": "patch_merge_mlp.linear_2",
        }
    ),
    "musicflamingo": Kind(_TWO_LAYERS_BEHIND_WHISPER),
    "paddleocr": Kind(
        {**SIGLIP, **CONNECTED, "mm.input_norm": "mlp_AR.pre_norm"},
        unread=r"packing_position_embedding|vision_model\.head",
    ),
    "phi4": Kind(
        {
            **SIGLIP,
            "v.patch_embd.weight": "embeddings.patch_embedding.weight = pixels",
            "v.patch_embd.bias": "embeddings.patch_embedding.bias",
            "mm.0": "mm_projector.0",
            "mm.2": "mm_projector.2",
        },
        unread=r"vision_model\.(head|post_layernorm)\.",
        last_unread=True,
    ),
    "pixtral": Kind(PIXTRAL, token="[IMG_BREAK]"),
    "qwen2.5vl_merger": Kind({**QWEN2, **GATED}),
    "qwen2a": Kind({**WHISPER, "mm.a.fc": "multi_modal_projector.linear"}),
    "qwen2vl_merger": Kind(QWEN2),
    "qwen3vl_merger": Kind(
        {
            **VISUAL,
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
    "step3vl": Kind(
        {
            "v.patch_embd": "vision_model.conv1",
            "v.position_embd.weight": "vision_model.positional_embedding",
            "v.pre_ln": "vision_model.ln_pre",
            "v.blk.*.attn_qkv.weight": "resblocks.*.attn.in_proj_weight",
            "v.blk.*.attn_qkv.bias": "resblocks.*.attn.in_proj_bias",
            "v.blk.*.attn_out": "resblocks.*.attn.out_proj",
            "v.blk.*.ln1": "resblocks.*.ln_1",
            "v.blk.*.ln2": "resblocks.*.ln_2",
            "v.blk.*.ls1.weight": "resblocks.*.ls_1.gamma",
            "v.blk.*.ls2.weight": "resblocks.*.ls_2.gamma",
            "v.blk.*.ffn_up": "resblocks.*.mlp.c_fc",
            "v.blk.*.ffn_down": "resblocks.*.mlp.c_proj",
            "mm.0": "vision_model.vit_downsampler1",
            "mm.1": "vision_model.vit_downsampler2",
            "mm.model.fc": "vit_large_projector",
        },
        convolved=("mm.0", "mm.1"),
    ),
    "voxtral": Kind(_TWO_LAYERS_BEHIND_WHISPER),
    "youtuvl": Kind({**SIGLIP, "mm.input_norm": "merger.ln_q", "mm.0": "merger.mlp.0", "mm.2": "merger.mlp.2"}),
}
"""By `clip.projector_type`, or `clip.vision.projector_type` of a model that hears too."""
