"""config.json, generation_config.json and what is said of quantization, in places that are looked at less."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.verification.corpus.changes import ROUTER, W2, Damage, config, ignore, put
from tests.verification.damage import LAYER, edit_config, replace


def field(**changed: Any) -> Callable[[Path], None]:
    return config(lambda c: c.update(changed))


def rope(**changed: Any) -> Callable[[Path], None]:
    return config(lambda c: c["rope_parameters"].update(changed))


def quantization(**changed: Any) -> Callable[[Path], None]:
    return config(lambda c: c["quantization_config"].update(changed))


def group(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return config(lambda c: change(next(iter(c["quantization_config"]["config_groups"].values()))))


def generation(**changed: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda g: g.update(changed), "generation_config.json")


def text(change: Callable[[str], str], name: str = "config.json") -> Callable[[Path], None]:
    """What an editor does, and a parser of JSON does not undo."""
    return lambda folder: replace(folder / name, change((folder / name).read_text()).encode())


def _second_group(c: dict[str, Any]) -> None:
    groups = c["quantization_config"]["config_groups"]
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
    groups["second"] = {"targets": ["Linear"], "weights": weights, "input_activations": None}


_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def _cache_scale_of_one_layer(folder: Path) -> None:
    quantization(kv_cache_scheme=_CACHE)(folder)
    put(LAYER.format(0) + "self_attn.k_scale", torch.ones(1))(folder)
    put(LAYER.format(0) + "self_attn.v_scale", torch.ones(1))(folder)


def _cache_scale(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        quantization(kv_cache_scheme=_CACHE)(folder)
        for layer in (0, 1):
            for part in ("k_scale", "v_scale"):
                scale = torch.full((1,), value if (layer, part) == (1, "k_scale") else 0.05)
                put(LAYER.format(layer) + f"self_attn.{part}", scale)(folder)

    return change


CONFIGS = [
    Damage("rope base in rope_parameters alone", "fp8", rope(rope_theta=5e5), "rope", True),
    Damage("YaRN in rope_parameters", "fp8", rope(rope_type="yarn", factor=4.0), "rope", False),
    Damage("partial rotary factor in rope_parameters", "bf16", rope(partial_rotary_factor=1.0), "r", True),
    Damage(
        "a dynamic rope beside the stated one",
        "fp8",
        field(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        "rope",
        False,
    ),
    Damage("key heads as many as queries", "fp8", field(num_key_value_heads=4), "k", True),
    Damage("heads of half the size", "nvfp4", field(head_dim=32), "head_dim|_proj", True),
    Damage("a smaller vocabulary", "fp8", field(vocab_size=2000), "vocab|embed_tokens", True),
    Damage("experts of half the size", "awq", field(intermediate_size=128), "intermediate_size|experts", True),
    Damage("another hidden size", "bf16", field(hidden_size=512), "hidden_size|embed_tokens", True),
    Damage("another epsilon", "fp8", field(rms_norm_eps=1e-5), "rms_norm_eps", False),
    Damage("epsilon zero", "fp8", field(rms_norm_eps=0.0), "rms_norm_eps", True),
    Damage("a longer context", "fp8", field(max_position_embeddings=1 << 20), "max_position_embeddings", False),
    Damage("norms of queries denied", "fp8", field(use_qk_norm=False), "use_qk_norm", False),
    Damage("routing bias denied", "fp8", field(use_routing_bias=False), "use_routing_bias", False),
    Damage("softmax for sigmoid", "awq", field(scoring_func="softmax"), "scoring_func", False),
    Damage("a layer of linear attention", "fp8", field(attn_type_list=[1, 0]), "attn_type_list", False),
    Damage("types of one layer too few", "fp8", field(attn_type_list=[1]), "attn_type_list", True),
    Damage("experts chosen as text", "fp8", field(num_experts_per_tok="2"), "num_experts_per_tok", True),
    Damage("tied as text", "fp8", field(tie_word_embeddings="false"), "tie_word_embeddings", True),
    Damage("layers as a fraction", "fp8", field(num_hidden_layers=2.5), "num_hidden_layers", True),
    Damage("more experts chosen than there are", "fp8", field(num_experts_per_tok=9), "num_experts_per_tok", True),
    Damage("a nested text config", "fp8", field(text_config={"num_experts_per_tok": 1}), "text_config", False),
    Damage(
        "a second class",
        "fp8",
        field(architectures=["MiniMaxM2ForCausalLM", "MixtralForCausalLM"]),
        "architectures",
        False,
    ),
    Damage("model type of another family", "fp8", field(model_type="mixtral"), "", True),
    Damage("an unknown model type", "nvfp4", field(model_type="minimax_m9"), "model_type", False),
    Damage(
        "quantization said twice",
        "fp8",
        field(compression_config={"quant_method": "awq", "bits": 4}),
        "compression_config",
        False,
    ),
    Damage(
        "a key twice in config.json",
        "fp8",
        text(lambda t: t.replace("{", '{"num_experts_per_tok": 1,', 1)),
        "config.json",
        True,
    ),
    Damage(
        "config.json in UTF-16",
        "fp8",
        lambda f: replace(f / "config.json", (f / "config.json").read_text().encode("utf-16")),
        "config.json",
        True,
    ),
    Damage("config.json with a comma too many", "fp8", text(lambda t: t.rstrip()[:-1] + ",}"), "config.json", True),
    Damage("config.json is a list", "fp8", text(lambda t: f"[{t}]"), "config.json", True),
    Damage("epsilon is not a number", "fp8", text(lambda t: t.replace("1e-06", "NaN")), "", True),
    Damage("epsilon infinite", "fp8", text(lambda t: t.replace("1e-06", "Infinity")), "", True),
    Damage("ends at two tokens", "fp8", generation(eos_token_id=[0, 5]), "generation_config.json", False),
    Damage("repetition punished", "fp8", generation(repetition_penalty=1.5), "generation_config.json", False),
    Damage("greedy made random", "awq", generation(do_sample=True, temperature=3.0), "generation_config.json", False),
    Damage("tokens suppressed", "fp8", generation(suppress_tokens=[1, 2, 3]), "generation_config.json", False),
    Damage("answers of five tokens", "fp8", generation(max_new_tokens=5), "generation_config.json", False),
    Damage(
        "an end token outside the vocabulary", "fp8", generation(eos_token_id=[0, 2048]), "generation_config.json", True
    ),
    Damage(
        "generation_config.json gone",
        "fp8",
        lambda f: (f / "generation_config.json").unlink(),
        "generation_config.json",
        False,
    ),
    Damage(
        "generation_config.json cut short",
        "fp8",
        text(lambda t: t[:-9], "generation_config.json"),
        "generation_config.json",
        True,
    ),
    Damage("a layer ignored", "fp8", ignore(lambda e: [*e, "re:model.layers.1..*"]), "layers.1", True),
    Damage("a matrix of all experts ignored", "nvfp4", ignore(lambda e: [*e, "re:.*w2$"]), "w2", True),
    Damage("an expert ignored", "nvfp4", ignore(lambda e: [*e, W2[:-1]]), W2[:-1], True),
    Damage("gate and up targeted alone", "fp8", group(lambda g: g.update(targets=["re:.*w[13]$"])), "w2", True),
    Damage("a class targeted that is not there", "fp8", group(lambda g: g.update(targets=["LinearX"])), "", True),
    Damage("nothing targeted", "fp8", group(lambda g: g.update(targets=[])), "", True),
    Damage("a second group for the same", "fp8", config(_second_group), "", True),
    Damage(
        "static inputs without scales",
        "fp8",
        group(lambda g: g["input_activations"].update(dynamic=False, strategy="tensor")),
        "input",
        True,
    ),
    Damage("static inputs called dynamic", "fp8-modelopt", quantization(quant_algo="FP8_PB_WO"), "", True),
    Damage("group of another format", "nvfp4", group(lambda g: g.update(format="pack-quantized")), "format", True),
    Damage(
        "global scales per token", "nvfp4-gb10", group(lambda g: g["input_activations"].update(dynamic=True)), "", True
    ),
    Damage(
        "groups ordered by activation", "awq-packed", group(lambda g: g["weights"].update(actorder="group")), "", True
    ),
    Damage("eight bits", "awq-packed", group(lambda g: g["weights"].update(num_bits=8)), "", True),
    Damage("groups of 64", "awq-packed", group(lambda g: g["weights"].update(group_size=64)), "", True),
    Damage(
        "a channel's scale",
        "awq-packed",
        group(lambda g: g["weights"].update(strategy="channel", group_size=None)),
        "",
        True,
    ),
    Damage("cache scales of one layer", "fp8", _cache_scale_of_one_layer, "_scale", True),
    Damage(
        "a cache scale that is not a number",
        "fp8",
        _cache_scale(float("nan")),
        LAYER.format(1) + "self_attn.k_scale",
        True,
    ),
    Damage("a cache scale of zero", "nvfp4", _cache_scale(0.0), LAYER.format(1) + "self_attn.k_scale", True),
    Damage(
        "cache scales that nothing declares",
        "fp8",
        put(LAYER.format(0) + "self_attn.k_scale", torch.ones(1)),
        LAYER.format(0) + "self_attn.k_scale",
        True,
    ),
    Damage("blocks of 64", "fp8-block", group(lambda g: g["weights"].update(block_structure=[64, 64])), "", True),
    Damage("every projection left out", "awq", ignore(lambda e: [*e, "w2"], "modules_to_not_convert"), "w2", True),
    Damage("nothing left out", "awq", quantization(modules_to_not_convert=None), ROUTER, True),
    Damage(
        "head converted",
        "awq",
        ignore(lambda e: [x for x in e if x != "lm_head"], "modules_to_not_convert"),
        "lm_head",
        True,
    ),
    Damage("three bits", "awq", quantization(bits=3), "", True),
    Damage("AWQ of GPTQ", "awq", quantization(quant_method="gptq", sym=False), "", True),
    Damage("scheme of another name", "nvfp4-modelopt", quantization(quant_algo="W4A16_AWQ"), "", True),
    Damage(
        "a quantized cache in one of two files",
        "nvfp4-modelopt",
        lambda f: edit_config(f, lambda c: c["quantization"].update(kv_cache_quant_algo="FP8"), "hf_quant_config.json"),
        "",
        True,
    ),
    Damage(
        "head not excluded",
        "nvfp4-modelopt",
        lambda f: edit_config(
            f, lambda c: c["quantization"]["exclude_modules"].remove("lm_head"), "hf_quant_config.json"
        ),
        "",
        True,
    ),
    Damage(
        "groups of 32 in one of two files",
        "nvfp4a16-modelopt",
        lambda f: edit_config(f, lambda c: c["quantization"].update(group_size=32), "hf_quant_config.json"),
        "hf_quant_config.json",
        True,
    ),
    Damage(
        "a scheme beside BF16",
        "bf16",
        field(quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"}),
        "",
        True,
    ),
    Damage("groups of experts", "deepseek/fp8", field(n_group=4), "n_group", False),
    Damage("gates not normalized", "deepseek/nvfp4", field(norm_topk_prob=False), "norm_topk_prob", False),
    Damage("gates scaled by one", "deepseek/awq", field(routed_scaling_factor=1.0), "routed_scaling_factor", False),
    Damage("no dense layer", "deepseek/fp8", field(first_k_dense_replace=0), "", True),
    Damage("a smaller latent", "deepseek/fp8", field(kv_lora_rank=64), "kv", True),
    Damage("rotary part of keys halved", "deepseek/fp8", field(qk_rope_head_dim=16), "", True),
    Damage("YaRN's factor halved", "deepseek/fp8", rope(factor=2.0), "rope", False),
    Damage(
        "YaRN's mscale gone",
        "deepseek/awq",
        config(lambda c: c["rope_parameters"].pop("mscale_all_dim")),
        "rope",
        False,
    ),
    Damage("interleaved rope denied", "deepseek/fp8", field(rope_interleave=False), "rope_interleave", False),
    Damage("two shared experts", "deepseek/fp8", field(n_shared_experts=2), "shared_experts", True),
]
