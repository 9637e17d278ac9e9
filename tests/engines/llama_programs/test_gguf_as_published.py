"""Keys and tensors of our files are those of llama.cpp's own converter, of checkpoints in which fields and tensors are
called as publishers call them, where transformers saves them under other names."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import unseen
from tests.drafts import add_drafts
from tests.engines.llama_programs.test_gguf_converter import changed, compare, compare_file, converter, made, newer
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from verification.verify import verify

pytestmark = pytest.mark.engines

__all__ = ["converter", "newer"]

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 256,
    "long_factor": [1 + channel / 4 for channel in range(32)],
    "short_factor": [1 + channel / 32 for channel in range(32)],
}


BY_FORMULA = math.sqrt(1 + math.log(512 / 256) / math.log(256))
"""What the converter multiplies cosines by: of contexts of 512 where 256 were the first."""


@pytest.mark.parametrize(("stated", "meant"), [(BY_FORMULA, ""), (1.25, "phimoe.rope.scaling.attn_factor")])
def test_phi_3_5_moe_as_published(stated: float, meant: str, newer: Path, tmp_path: Path) -> None:
    """Norms and matrices with biases. What cosines are multiplied by is, in our file, what the config states."""
    rope = {**LONG, "long_mscale": stated, "short_mscale": stated}
    folder = made("phimoe", tmp_path, {"max_position_embeddings": 512, "rope_parameters": rope})
    changed(folder, architectures=["PhiMoEForCausalLM"])
    save_tokenizer(byte_level_tokenizer([], size=300), folder, tokenizer_class="GPT2Tokenizer")
    compare(newer, folder, "BF16", tmp_path, {meant})


def test_minimax_01_as_published(newer: Path, tmp_path: Path) -> None:
    """Lightning attention, whose decays are not on disk, and one layer in eight with attention."""
    kinds = ["linear_attention"] * 7 + ["full_attention"]
    residuals = dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), 3.5)
    folder = made("minimax", tmp_path, {"num_hidden_layers": 8, "layer_types": kinds, **residuals})
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    _, ours = export(open_source(folder), recipe("BF16"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not re.search(r"_decay$|slope_rate$", name)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(kept, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))  # which the converter opens
    norms = ("full_attention", "linear_attention", "mlp")
    published = {f"layernorm_{norm}_{greek}": n for norm in norms for greek, n in (("alpha", 3.5), ("beta", 1.0))}
    changed(folder, architectures=["MiniMaxText01ForCausalLM"], rotary_dim=64, **published)
    compare_file(ours, newer, folder, "BF16", tmp_path, set())


def test_minimax_m3_as_published(newer: Path, tmp_path: Path) -> None:
    """Fields and names that transformers calls otherwise when it saves: an indexer and one dense layer."""
    folder = made("minimax_m3_vl", tmp_path, {})
    sparse = {"sparse_attention_freq": [0, 1, 1, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 64}
    sparse |= {"sparse_topk_blocks": 16, "sparse_block_size": 128, "sparse_local_block": 1}
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text |= {"n_shared_experts": 1, "moe_layer_freq": [0, 1, 1, 1], "scoring_func": "sigmoid"}
    text |= {"sparse_attention_config": sparse}
    changed(folder, architectures=["MiniMaxM3SparseForConditionalGeneration"], text_config=text)
    as_published(folder)
    compare(newer, folder, "BF16", tmp_path, set())


def test_kimi_linear_as_published(newer: Path, tmp_path: Path) -> None:
    folder = made("kimi_linear", tmp_path, {})
    deltas = {"full_attn_layers": [2, 4], "kda_layers": [1, 3], "short_conv_kernel_size": 4, "head_dim": 64}
    more = {"first_k_dense_replace": 1, "moe_router_activation_func": "sigmoid"}
    changed(folder, linear_attn_config={**deltas, "num_heads": 4}, **more)
    as_published(folder)
    compare(newer, folder, "BF16", tmp_path, set())


QWEN_4 = {
    "linear_num_value_heads": 4,
    "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [6, 5, 5]},
}


def test_qwen_4_as_published(newer: Path, tmp_path: Path) -> None:
    """Streams that low ranks mix, and a table of n-grams in parts. What chooses tokens stays in float32 in our files,
    as MiniMax-M3's does in both."""
    folder = made("qwen4_exp_text", tmp_path, QWEN_4)
    changed(folder, layer_types=["linear_attention", "full_attention"] * 2, full_attention_interval=2)
    compare(newer, folder, "BF16", tmp_path, set(), other=r"indexer\.[qk]_proj")


DEEPSEEK_4 = {
    "index_topk": 256,
    "index_head_dim": 128,  # where it is a head's size, llama.cpp divides by zero in files without such layers
    "layer_types": [
        *("sliding_attention", "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
    ],
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "sliding_window": 32,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
    },
}
"""All kinds of layers, in contexts beyond the first length."""


def tabled(folder: Path) -> None:
    """Two of the four experts for each token, of a family whose tables are all zeros when it is made."""
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, table in tensors.items():
        if name.endswith("tid2eid"):
            tensors[name] = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(len(table))])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_deepseek_v4_as_published(newer: Path, tmp_path: Path) -> None:
    """What mixes streams, chooses tokens or experts and places compressed keys is float32 in our files, whatever it is
    on disk (where published ones have it so)."""
    folder = made("deepseek_v4", tmp_path, DEEPSEEK_4)
    tabled(folder)
    published = {"compress_ratios": [0, 0, 4, 128], "num_hash_layers": 1}
    scaling = {"type": "yarn", **{k: v for k, v in DEEPSEEK_4["rope_parameters"].items() if k != "rope_type"}}
    changed(folder, rope_scaling=scaling, **published)
    _, ours = export(open_source(folder), recipe("BF16"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for saved, named in (
        ("model.embed_tokens.", "embed."),
        ("model.hc_head.hc_", "hc_head_"),
        ("model.", ""),
        (".attn.norm.", ".attn.kv_norm."),
    ):
        tensors = {name.replace(saved, named): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    meant = {"general.file_type", "tokenizer.chat_template"}  # it says MXFP4, and adds a template of its own
    exact = r"hc_(attn_|ffn_)?fn|compressor_ape|indexer_compressor_gate|indexer\.proj|ffn_gate_inp"
    compare_file(ours, newer, folder, "BF16", tmp_path, meant, other=exact)


def test_hrm_text_as_published(newer: Path, tmp_path: Path) -> None:
    """Layers are counted once, and not as often as they run."""
    folder = made("hrm_text", tmp_path, {})
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = config.pop("num_layers_per_stack")
    (folder / "config.json").write_text(json.dumps(config))
    compare(newer, folder, "BF16", tmp_path, set())


@pytest.mark.parametrize("drafts", [False, True])
def test_glm_5_next_as_published(drafts: bool, newer: Path, tmp_path: Path) -> None:
    """Hyper-connections, delta nets, latent attention to what an indexer of pooled keys chooses, and an MTP layer."""
    folder = made("glm5_next", tmp_path, {})
    text = json.loads((folder / "config.json").read_text())["text_config"]
    deltas = {"num_heads": 4, "head_dim": 64, "short_conv_kernel_size": 4, "gate_lower_bound": -5.0}
    text |= {"linear_attn_config": deltas, "mla_use_nope": True, "first_k_dense_replace": 3, "scoring_func": "sigmoid"}
    changed(folder, text_config=text)
    if drafts:
        add_drafts(folder)
    compare(newer, folder, "BF16", tmp_path, set())


def test_gemma_3n_as_published(newer: Path, tmp_path: Path) -> None:
    """Inputs of each layer for fewer tokens than the vocabulary has, and keys of layers that share others', which are
    lost when transformers saves a model: without them llama.cpp loads none."""
    shared = {"num_kv_shared_layers": 2, "vocab_size": 300, "vocab_size_per_layer_input": 280}
    folder = made("gemma3n_text", tmp_path, shared)
    with pytest.raises(SixfoldError, match=r"blk\.2\.attn_k\.weight"):
        export(open_source(folder), recipe("BF16"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for layer in (2, 3):
        own, other = (f"model.layers.{n}.self_attn." for n in (layer, layer - 2))
        for part in ("k_proj", "v_proj", "k_norm"):
            tensors[f"{own}{part}.weight"] = tensors[f"{other}{part}.weight"].flip(0)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert verify(export(open_source(folder), recipe("BF16"), tmp_path)[1], open_source(folder), unseen).findings == ()
    compare(newer, folder, "BF16", tmp_path, set())


def test_hy_v4_as_published(newer: Path, tmp_path: Path) -> None:
    """Streams without what mixes them, latent attention behind sinks and a gate, and an indexer of some layers."""
    folder = made("hy_v4", tmp_path, {"n_group": 1})
    tensors = load_file(folder / "model.safetensors")
    for pattern, published in (
        (r"hc_pre\.hc_(attn|mlp)_layer\.", r"hc_\1_layer.hc_pre."),
        (r"hc_pre\.hc_head\.", "hc_head."),
        (r"mlp\.(shared_experts\.)?linear_gate\.", r"mlp.\1gate_proj."),
    ):
        tensors = {re.sub(pattern, published, name): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert verify(export(open_source(folder), recipe("BF16"), tmp_path)[1], open_source(folder), unseen).findings == ()
    compare(newer, folder, "BF16", tmp_path, set())


def test_mimo_v2_as_published(newer: Path, tmp_path: Path) -> None:
    """Windows with other heads of keys, and sinks."""
    folder = made("mimo_v2_flash", tmp_path, {})
    config = json.loads((folder / "config.json").read_text())
    windowed = {"head_dim": 64, "v_head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "rope_theta": 1e4}
    published = {
        "rope_theta": 5e6,
        "partial_rotary_factor": 0.334,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    }
    published |= {f"swa_{name}": value for name, value in windowed.items()}
    published |= {"hybrid_layer_pattern": [0, 1, 1, 1], "moe_layer_freq": [0, 1, 1, 1], "layernorm_epsilon": 1e-5}
    kept = {k: v for k, v in config.items() if k not in ("rope_parameters", "layer_types", "mlp_layer_types")}
    (folder / "config.json").write_text(json.dumps({**kept, **published}))
    compare(newer, folder, "BF16", tmp_path, set(), "--no-mtp")


def test_step_3_7_as_published(newer: Path, tmp_path: Path) -> None:
    """Windows with other heads of queries, experts that are clamped, and a dense MTP layer with a head of its own."""
    folder = made("step3p7", tmp_path, {})
    weights = folder / "model.safetensors"
    tensors, last = load_file(weights), "model.layers.4.transformer.shared_head"
    dense = {n.replace("layers.0.", "layers.4."): t / 2 for n, t in tensors.items() if "layers.0." in n}
    wide = tensors["model.layers.0.self_attn.q_proj.weight"]
    dense |= {
        "model.layers.4.eh_proj.weight": wide.repeat(1, 2),
        f"{last}.output.weight": tensors["lm_head.weight"] / 2,
    }
    norms = ("model.layers.4.enorm", "model.layers.4.hnorm", f"{last}.norm")
    save_file({**tensors, **dense, **{f"{n}.weight": wide[0].clone() for n in norms}}, weights, {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())["text_config"]
    for name in ("rope_parameters", "mlp_layer_types", "num_key_value_heads", "n_routed_experts", "per_layer_config"):
        text.pop(name)
    text |= {"num_attention_groups": 2, "moe_num_experts": text["num_experts_per_tok"] * 2, "moe_top_k": 2}
    text |= {"attention_other_setting": {"num_attention_heads": text.pop("num_sliding_attention_heads")}}
    text |= {"layer_types": [*text["layer_types"], "full_attention"], "moe_layers_enum": "1,2,3"}
    text |= {"rope_theta": [5e6, 1e4, 1e4, 5e6, 5e6], "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5, 0.5]}
    text |= {"norm_expert_weight": True, "moe_router_activation": "sigmoid", "num_nextn_predict_layers": 1}
    text |= {name: [*text[name], 0.0] for name in ("swiglu_limits", "swiglu_limits_shared")}
    text.pop("num_experts_per_tok")
    changed(folder, architectures=["Step3p7ForConditionalGeneration"], text_config=text)
    compare(newer, folder, "BF16", tmp_path, set())


def as_published(folder: Path) -> None:
    """The first layer, which has no experts, under the name that it has on the Hub."""
    tensors = load_file(folder / "model.safetensors")
    named = {name.replace("layers.0.block_sparse_moe.", "layers.0.mlp."): t for name, t in tensors.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
