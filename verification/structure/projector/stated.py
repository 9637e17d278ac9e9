"""What clip.cpp reads of each kind that sees, from config.json, its vision_config and the file of the processor."""

import math
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]


def first(config: Config, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def epsilon(value: Any) -> dict[str, Any]:
    return {"vision.attention.layer_norm_epsilon": value}


def act(tower: Config) -> dict[str, Any]:
    name = tower.get("hidden_act")
    return {f"use_{name}": True} if name in ("gelu", "silu") else {}


def deepseek(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    """Fields of config.json itself; where no file says how pictures are prepared, colors come to lie around zero."""
    patch, merged = config["vision_patch_size"], config["vision_downsample_ratio"]
    return {
        "vision.embedding_length": config["vision_dim"],
        "vision.feed_forward_length": config["vision_inter_dim"],
        "vision.block_count": config["vision_n_layers"],
        "vision.attention.head_count": config["vision_n_heads"],
        "vision.patch_size": patch,
        "vision.image_size": 16 * patch * merged,
        "vision.image_min_pixels": config["vision_min_pixels"],
        "vision.image_mean": processor.get("image_mean", [0.5] * 3),
        "vision.image_std": processor.get("image_std", [0.5] * 3),
        "vision.projector.scale_factor": merged,
        "use_silu": True,
        **epsilon(1e-6),
    }


def dots(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": 0,
        "vision.image_min_pixels": processor["min_pixels"],
        "vision.image_max_pixels": processor["max_pixels"],
        "vision.projector.scale_factor": tower["spatial_merge_size"],
        "use_silu": True,
        **epsilon(tower["rms_norm_eps"]),
    }


def gemma3(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    side = math.isqrt(processor.get("image_seq_length", 256))
    merged = tower["image_size"] // tower["patch_size"] // side
    scale = {"vision.projector.scale_factor": merged} if merged not in (0, 4) else {}
    return {"use_gelu": True, **epsilon(tower.get("layer_norm_eps", 1e-6)), **scale}


def gemma4(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    ear = config.get("audio_config")
    seen = {"vision.image_size": 224, **epsilon(tower.get("layer_norm_eps", 1e-6))}
    if not ear:
        return seen
    return {
        **seen,
        "has_audio_encoder": True,
        "audio.projector_type": "gemma4a",
        "audio.projection_dim": config["text_config"]["hidden_size"],
        "audio.embedding_length": ear["hidden_size"],
        "audio.feed_forward_length": 4 * ear["hidden_size"],
        "audio.block_count": ear["num_hidden_layers"],
        "audio.attention.head_count": ear["num_attention_heads"],
        "audio.attention.layer_norm_epsilon": ear.get("layer_norm_eps", 1e-6),
        "audio.num_mel_bins": ear.get("input_feat_size", 128),
    }


def gemma4_unified(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    nothing = ("feed_forward_length", "block_count", "attention.head_count")
    pooled = tower["pooling_kernel_size"]
    seen = {
        "vision.image_size": 224,
        "vision.embedding_length": tower["mm_embed_dim"],
        **{f"vision.{name}": 0 for name in nothing},
        **epsilon(tower.get("layer_norm_eps", 1e-6)),
        **({"vision.projector.scale_factor": pooled} if pooled != 3 else {}),
    }
    ear = config.get("audio_config")
    if not ear:
        return seen
    return {
        **seen,
        "has_audio_encoder": True,
        "audio.projector_type": "gemma4ua",
        "audio.projection_dim": config["text_config"]["hidden_size"],
        "audio.embedding_length": ear["audio_embed_dim"],
        **{f"audio.{name}": 0 for name in nothing},
        "audio.attention.layer_norm_epsilon": ear.get("layer_norm_eps", 1e-6),
        "audio.num_mel_bins": ear.get("input_feat_size", 128),
    }


def glm4v(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {**act(tower), **epsilon(tower.get("rms_norm_eps", 1e-5))}


def glm5v(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    token = (processor.get("patch_size", 14) * processor.get("merge_size", 2)) ** 2
    return {
        **glm4v(config, tower, processor),
        "vision.spatial_merge_size": tower.get("spatial_merge_size", 2),
        "vision.swiglu_clamp": tower["swiglu_limit"],
        "vision.image_min_pixels": processor["min_image_tokens"] * token,
        "vision.image_max_pixels": processor["max_image_tokens"] * token,
    }


def exaone(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": tower.get("image_size", 560),
        "vision.image_min_pixels": processor["min_pixels"],
        "vision.image_max_pixels": processor["max_pixels"],
        "vision.attention.head_count_kv": tower["num_key_value_heads"],
        "vision.window_size": tower.get("window_size"),
        "vision.n_wa_pattern": tower["fullatt_block_indexes"][0] + 1,
        "use_silu": True,
        **epsilon(tower.get("rms_norm_eps", config.get("rms_norm_eps", 1e-6))),
    }


def hunyuan(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": tower.get("max_image_size", 2048),
        "vision.spatial_merge_size": tower.get("spatial_merge_size", 2),
        "vision.image_min_pixels": processor["min_pixels"],
        "vision.image_max_pixels": processor["max_pixels"],
        "use_gelu": True,
        **epsilon(tower.get("rms_norm_eps", 1e-5)),
    }


def idefics3(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    longest = (processor.get("size") or {}).get("longest_edge", tower["image_size"])
    scale = {"vision.projector.scale_factor": config.get("scale_factor", 2), "vision.preproc_image_size": longest}
    return {"use_gelu": True, **epsilon(tower.get("layer_norm_eps", 1e-5)), **scale}


def internvl(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    sides = {name: tower[name][0] if isinstance(tower[name], list) else tower[name] for name in _SIDES}
    shrunk = round(1 / config["downsample_ratio"] - 0.5 + 1e-9)
    return {
        **{f"vision.{name}": side for name, side in sides.items()},
        **act(tower),
        **epsilon(tower["layer_norm_eps"]),
        "vision.projector.scale_factor": shrunk,
    }


_SIDES = ("image_size", "patch_size")


def janus(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    wide = tower.get("intermediate_size", round(tower["hidden_size"] * tower["mlp_ratio"]))
    return {"vision.feed_forward_length": wide, **act(tower), **epsilon(tower.get("layer_norm_eps", 1e-6))}


def kimi(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    patch = tower.get("patch_size", 14)
    height = tower.get("init_pos_emb_height", 64)
    return {
        "vision.image_size": height * patch,
        "use_gelu": tower.get("projector_hidden_act", "gelu") == "gelu",
        **epsilon(tower.get("projector_ln_eps", 1e-5)),
        "vision.projector.scale_factor": tower.get("merge_kernel_size", [2, 2])[0],
        "vision.image_min_pixels": 8 * patch**2,
        "vision.image_max_pixels": processor.get("in_patch_limit", 16384) * patch**2,
    }


def kimi_vl(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    eyes = {"vision.image_size": 896, "vision.projector.scale_factor": 2}
    return {**eyes, "use_gelu": True, **epsilon(tower.get("layer_norm_eps", 1e-5))}


def lfm2(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": 256,
        "use_gelu": True,
        "vision.projector.scale_factor": config.get("downsample_factor", 2),
        "vision.block_count": tower["num_hidden_layers"] + 1 + config.get("vision_feature_layer", -1),
        **epsilon(tower["layer_norm_eps"]),
    }


def llama4(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    scale = {"vision.projector.scale_factor": math.floor(1 / tower["pixel_shuffle_ratio"])}
    return {"use_gelu": True, **epsilon(tower["norm_eps"]), **scale}


def minicpm(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": processor.get("scale_resolution", tower["image_size"]),
        "vision.projector.scale_factor": 4,
        "vision.wa_layer_indexes": [config.get("insert_layer_id", 6)],
        "use_gelu": True,
        **epsilon(tower.get("layer_norm_eps", 1e-6)),
    }


def minimax(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    merged = {"vision.spatial_merge_size": tower.get("spatial_merge_size", 2)}
    return {"use_gelu": True, **epsilon(tower.get("layer_norm_eps", 1e-5)), **merged}


def paddle(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    return {
        "vision.image_size": math.isqrt(processor["max_pixels"]),
        "vision.image_min_pixels": processor["min_pixels"],
        "vision.image_max_pixels": processor["max_pixels"],
        "use_gelu": True,
        **epsilon(tower.get("rms_norm_eps", 1e-6)),
    }


def phi4(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    """image_size follows from the number of positions, which is a tensor's to say."""
    patch, said = processor["patch_size"], {**config, **processor}
    return {
        "vision.patch_size": patch,
        "vision.image_size": None,
        "vision.block_count": tower["num_hidden_layers"] - 1,
        "vision.image_min_pixels": said["min_num_patches"] * patch**2,
        "vision.image_max_pixels": said["max_num_patches"] * patch**2,
        "use_gelu": True,
        **epsilon(tower.get("layer_norm_eps", 1e-6)),
    }


def pixtral(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    merged = config.get("spatial_merge_size")
    return {**act(tower), **epsilon(tower.get("layer_norm_eps", 1e-5)), "vision.spatial_merge_size": merged}


def qwen2(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    stated = {"vision.image_size": tower.get("image_size", 560), **epsilon(config.get("rms_norm_eps", 1e-6))}
    if "embed_dim" in tower:
        stated |= {"vision.embedding_length": tower["embed_dim"], "vision.feed_forward_length": tower["hidden_size"]}
    return stated


def qwen25(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    window = tower["fullatt_block_indexes"][0] + 1
    return {**qwen2(config, tower, processor), "use_silu": True, "vision.n_wa_pattern": window}


def qwen3(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    side = int(math.sqrt(tower.get("num_position_embeddings", 2304)) * tower["patch_size"])
    taken = set(tower.get("deepstack_visual_indexes") or ())
    return {
        "vision.image_size": tower.get("image_size", side),
        "vision.spatial_merge_size": tower.get("spatial_merge_size"),
        "vision.is_deepstack_layers": [layer in taken for layer in range(tower["depth"])],
        "use_gelu": True,
        **epsilon((config.get("text_config") or {}).get("rms_norm_eps", 1e-6)),
    }


def step(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    """Where no file says how pictures are prepared, the publisher's code does it as CLIP's."""
    wide = round(first(tower, "hidden_size", "width") * tower.get("mlp_ratio", 8960 / 1536))
    return {
        "vision.feed_forward_length": tower.get("intermediate_size", wide),
        "vision.image_mean": processor.get("image_mean", [0.48145466, 0.4578275, 0.40821073]),
        "vision.image_std": processor.get("image_std", [0.26862954, 0.26130258, 0.27577711]),
        "vision.projector.scale_factor": config.get("understand_projector_stride", 2) ** 2,
        "vision.preproc_image_size": 3024,
        **epsilon(tower.get("layer_norm_eps", 1e-5)),
    }


def youtu(config: Config, tower: Config, processor: Config) -> Mapping[str, Any]:
    act = {"use_silu": True} if tower.get("hidden_act") == "silu" else {"use_gelu": True}
    return {
        "vision.image_size": tower.get("image_size", 560),
        "vision.spatial_merge_size": tower.get("spatial_merge_size", 2),
        "vision.window_size": tower.get("window_size"),
        "vision.wa_layer_indexes": tower["fullatt_block_indexes"],
        **act,
        **epsilon(tower.get("layer_norm_eps", 1e-6)),
    }
