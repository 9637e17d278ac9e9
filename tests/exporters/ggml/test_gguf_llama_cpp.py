"""llama.cpp reads the files: its logits are transformers', its tokens are those of tokenizer.json."""

from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Regex, pre_tokenizers

from exporters.ggml.header.pre_tokenizer import _OWN_NAMES, KNOWN, pre_tokenizer_name
from exporters.ggml.header.pre_tokenizer_names import NAMES, known_name
from sixfold.model.source import open_source
from tests.exporters.ggml.gguf_tools import (
    HARD,
    byte_level_tokenizer,
    export,
    random_statistics,
    recipe,
    save_tokenizer,
    sentencepiece_like_tokenizer,
    spread,
)
from tests.exporters.ggml.llama_cpp import run
from tests.families import COMMON, FAMILIES, make_family

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
THETA = {"rope_theta": 10000.0}
LLAMA3 = {
    **THETA,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LITE = {
    "num_hidden_layers": 27,  # by which llama.cpp knows that queries are not compressed
    "q_lora_rank": None,
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "routed_scaling_factor": 2.0,
}
HEADS = {k: v for k, v in COMMON.items() if k != "head_dim"}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "minimax_m2": ("minimax_m2", {"rotary_dim": 32, "rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}),
    "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}),
    "mixtral": ("mixtral", {}),
    "deepseek_v2": ("deepseek_v2", {}),
    "deepseek_v2, lite": ("deepseek_v2", LITE),
    "deepseek_v3": ("deepseek_v3", {}),
    "deepseek_v3, yarn": (
        "deepseek_v3",
        {"rope_parameters": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "glm4_moe": ("glm4_moe", {"use_qk_norm": True}),
    "llama": ("llama", {}),
    "llama, llama3 rotary scaling": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": YARN}),
    "qwen2": ("qwen2", {}),
    "qwen2_moe": ("qwen2_moe", {}),
    "olmoe": ("olmoe", {}),
    "mistral": ("mistral", {"sliding_window": None}),
}
MORE_FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**FAMILIES["deepseek_v3"], "n_group": None, "topk_group": None, "topk_method": "greedy"},
    "qwen2": HEADS,
    "qwen2_moe": {
        **HEADS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
    },
    "olmoe": {
        **HEADS,
        "num_key_value_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "eos_token_id": 0,
        "pad_token_id": 0,
    },
    "mistral": COMMON,
}


def transformers_logits(folder: Path, tokens: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def llama_logits(file: Path, tokens: list[int], out: Path) -> torch.Tensor:
    run([{"do": "logits", "model": file, "tokens": tokens, "out": out}])
    return torch.from_numpy(np.load(out))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family, changes = MODELS[name]
    for key, sizes in MORE_FAMILIES.items():
        monkeypatch.setitem(FAMILIES, key, sizes)
    folder = make_family(family, tmp_path / "model", **changes)
    spread(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    _, file = export(open_source(folder), recipe("F32"), tmp_path)
    tokens = torch.randint(0, 300, (150,), generator=torch.Generator().manual_seed(2)).tolist()
    ours, theirs = llama_logits(file, tokens, tmp_path / "logits.npy"), transformers_logits(folder, tokens)
    assert theirs.abs().max() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_the_trained_demo_in_float32_and_quantized(tmp_path: Path) -> None:
    source = open_source(DEMO)
    tokens = torch.randint(4, 2048, (60,), generator=torch.Generator().manual_seed(2)).tolist()
    expected = transformers_logits(DEMO, tokens)
    _, f32 = export(source, recipe("F32"), tmp_path)
    exact = llama_logits(f32, tokens, tmp_path / "f32.npy")
    torch.testing.assert_close(exact, expected, rtol=0, atol=2e-4)
    statistics = random_statistics(source, tmp_path / "statistics")
    for preset, limit in (("Q8_0", 0.02), ("Q4_K_M", 0.3)):
        _, file = export(source, recipe(preset), tmp_path, statistics)
        found = llama_logits(file, tokens, tmp_path / "q.npy").log_softmax(-1)
        kl = (expected.softmax(-1) * (expected.log_softmax(-1) - found)).sum(-1).mean()
        assert 0 < kl < limit, preset


def test_a_split_model_loads_from_its_first_file(tmp_path: Path) -> None:
    source = open_source(DEMO)
    plan, first = export(source, recipe("F32", split_bytes=6_000_000), tmp_path)
    assert len(plan.files) > 2
    assert first.name == f"minimax-m2-4.6m-F32-00001-of-{len(plan.files):05d}.gguf"
    tokens = list(range(10, 30))
    whole_plan, whole = export(source, recipe("F32"), tmp_path)
    assert len(whole_plan.files) == 1
    split_logits = llama_logits(first, tokens, tmp_path / "split.npy")
    assert torch.equal(split_logits, llama_logits(whole, tokens, tmp_path / "whole.npy"))


@pytest.mark.parametrize("name", KNOWN)
def test_byte_level_tokens_are_those_of_tokenizer_json(name: str, tmp_path: Path) -> None:
    splits, whole_words = KNOWN[name]
    tokenizer = byte_level_tokenizer(splits, size=500, ignore_merges=whole_words)
    folder = make_family("llama", tmp_path / "model")
    save_tokenizer(tokenizer, folder)
    assert pre_tokenizer_name(tokenizer, {"ignore_merges": whole_words}, "llama") == name
    # llama.cpp holds these two without \p{M}: it parts combining marks from their letters, whoever writes the file.
    approximate = name in ("gpt-4o", "tekken")
    texts = [t for t in HARD if not approximate or not any(category(c).startswith("M") for c in t)]
    check_tokens(folder, tokenizer, tmp_path, texts)


def test_a_pre_tokenizer_is_known_by_what_it_does() -> None:
    """As tiktoken's converter writes it, with contractions spelled out, and cut into two steps."""
    qwen2 = KNOWN["qwen2"][0][0]
    spelled = qwen2.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = byte_level_tokenizer([], size=300)
    for steps, name in (
        ([pre_tokenizers.Split(Regex(spelled), "removed", invert=True), byte_level], "qwen2"),
        ([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)], "smollm"),
    ):
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        assert pre_tokenizer_name(tokenizer, {}, "llama") == name
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(KNOWN["gpt-4o"][0][0]), "isolated"), byte_level]
    )
    assert pre_tokenizer_name(tokenizer, {}, "minimax-m2") == "minimax-m2"


def test_sentencepiece_like_tokens_are_those_of_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like_tokenizer(500)
    folder = make_family("mixtral", tmp_path / "model")
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=False)
    check_tokens(folder, tokenizer, tmp_path, [text for text in HARD if text.strip()])


def check_tokens(folder: Path, tokenizer: Any, tmp_path: Path, texts: list[str]) -> None:
    _, file = export(open_source(folder), recipe("BF16"), tmp_path)
    (found,) = run([{"do": "tokenize", "model": file, "texts": texts, "special": False}])
    for text, tokens in zip(texts, found, strict=True):
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert tokens == expected.ids, (text, expected.tokens)


def vocabulary_with(pre: str, file: Path) -> Path:
    """A GGUF file of no more than a vocabulary."""
    writer = GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["a", "b", "ab", "Ċ"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_llama_cpp_has_every_pre_tokenizer_that_a_recipe_may_name(tmp_path: Path) -> None:
    tried = [*NAMES, "minimax-m3", "gpt2"]
    files = [vocabulary_with(name, tmp_path / f"{name}.gguf") for name in tried]
    (loads,) = run([{"do": "loads", "models": files}])
    assert dict(zip(tried, loads, strict=True)) == dict.fromkeys(NAMES, True) | {"minimax-m3": False, "gpt2": False}


def test_what_is_recognized_is_a_name_of_llama_cpps() -> None:
    for name in (*KNOWN, *_OWN_NAMES.values(), "default"):
        assert known_name(name) == name
