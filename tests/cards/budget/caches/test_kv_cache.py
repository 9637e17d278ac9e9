"""Bytes of a cache are those that are published for the model, and those that transformers' own cache comes to."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from cards.budget.caches.attention import attention, notes
from cards.budget.caches.kv_cache import Constant, Growth, constant, growth, kv_cache
from cards.budget.caches.layer_caches import KeysValues, State
from sixfold.errors import SixfoldError, UsageError
from tests.cards import published
from tests.families import COMMON, FAMILIES

MIB = 1024**2


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (published.MINIMAX_M2_7, 253_952),
        (published.QWEN3_30B_A3B, 98_304),
        (published.DEEPSEEK_V3, 70_272),
        (published.KIMI_K2, 70_272),
        (published.GPT_OSS_120B, 36_864),
        (published.GEMMA_3_27B, 81_920),
        (published.QWEN3_NEXT_80B, 24_576),
        (published.JAMBA, 16_384),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_a_token_takes_what_is_published(config: dict[str, Any], bytes_per_token: int, engine: str) -> None:
    assert growth(config, engine) == Growth(bytes_per_token, tokens=1)


def test_what_does_not_grow_is_what_is_published() -> None:
    assert constant(published.GEMMA_3_27B, "vllm") == Constant(windows=416 * MIB, states=0)
    states = constant(published.QWEN3_NEXT_80B, "vllm").states
    assert round(states / MIB, 1) == 37.7


FAMILIES_WITH_KEYS = [
    "llama",
    "qwen3",
    "qwen3_moe",
    "minimax_m2",
    "mixtral",
    "glm4_moe",
    "gpt_oss",
    "gemma2",
    "afmoe",
    "jamba",
    "qwen3_next",
    "qwen3_5_moe_text",
    "nemotron_h",
    "gemma3n_text",
    "lfm2",
]
MORE: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        **COMMON,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "activation_sparsity_pattern": None,
        "intermediate_size": 512,
    },
    "lfm2": {
        **{key: value for key, value in COMMON.items() if key not in {"num_hidden_layers", "head_dim"}},
        "num_hidden_layers": 3,
        "full_attn_idxs": [1],
        "conv_L_cache": 3,
    },
}


@pytest.mark.parametrize("family", FAMILIES_WITH_KEYS)
def test_keys_and_states_are_those_of_transformers_own_cache(family: str) -> None:
    tokens = 7
    made = CONFIG_MAPPING[family](**(FAMILIES | MORE)[family])
    with torch.no_grad():
        model = AutoModelForCausalLM.from_config(made).eval()
        cache = model(torch.arange(1, tokens + 1)[None], use_cache=True).past_key_values
    held = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None and layer.keys.numel()]
    keys_and_values = sum(layer.keys.numel() + layer.values.numel() for layer in held)
    states = sum(_numbers(getattr(layer, "recurrent_states", None)) for layer in cache.layers)
    found = [c for layer in attention({**made.to_dict(), "model_type": family}).layers for c in layer]
    assert tokens * sum(c.numbers for c in found if isinstance(c, KeysValues)) == keys_and_values
    assert sum(c.recurrent for c in found if isinstance(c, State)) == states


def _numbers(held: Any) -> int:
    if held is None:
        return 0
    tensors = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else [held]
    return sum(tensor.numel() for tensor in tensors if tensor is not None)


def test_a_latent_has_no_second_half_and_is_whole_on_every_device() -> None:
    alone, shared = (kv_cache(published.DEEPSEEK_V3, "vllm", 1024, tensor_parallel=n) for n in (1, 8))
    assert alone == shared == 1024 * 61 * (512 + 64) * 2


def test_keys_are_shared_among_devices_until_there_is_one_head_each() -> None:
    of = [growth(published.QWEN3_30B_A3B, "vllm", tensor_parallel=n).nbytes for n in (1, 2, 4, 8)]
    assert of == [98_304, 49_152, 24_576, 24_576]


def test_cache_types_take_their_blocks() -> None:
    numbers = 253_952 // 2
    assert growth(published.MINIMAX_M2_7, "vllm", cache_type="fp8").nbytes == numbers
    assert growth(published.MINIMAX_M2_7, "llama.cpp", cache_type="q8_0").nbytes == numbers // 32 * 34
    assert growth(published.MINIMAX_M2_7, "llama.cpp", cache_type="q4_0").nbytes == numbers // 32 * 18


def test_vllm_allocates_blocks_of_16_tokens() -> None:
    assert kv_cache(published.MINIMAX_M2_7, "vllm", 1) == 16 * 253_952
    assert kv_cache(published.MINIMAX_M2_7, "vllm", 17, sequences=3) == 3 * 32 * 253_952


def test_llama_cpp_allocates_256_cells_for_each_sequence() -> None:
    assert kv_cache(published.MINIMAX_M2_7, "llama.cpp", 257, sequences=2) == 2 * 512 * 253_952


def test_a_window_is_capped_by_each_engines_rule() -> None:
    of_a_layer = 2 * 8 * 64 * 2
    full = 18 * of_a_layer * 65536
    # 127 looked back on and two batches of 8192 under way, in blocks, and one block more.
    vllm = 18 * of_a_layer * 16 * (-(-(127 + 2 * 8192) // 16) + 1)
    assert kv_cache(published.GPT_OSS_120B, "vllm", 65536) == full + vllm
    # The window and a batch of 512, rounded up to 256.
    assert kv_cache(published.GPT_OSS_120B, "llama.cpp", 65536) == full + 18 * of_a_layer * 768
    # A pool of four fifths of the tokens, whatever the window.
    assert kv_cache(published.GPT_OSS_120B, "sglang", 65536) == full + 18 * of_a_layer * (65536 * 4 // 5)
    # Gemma 3 has no such pool in SGLang: every layer keeps every token.
    assert kv_cache(published.GEMMA_3_27B, "sglang", 65536) == 62 * 2 * 16 * 128 * 2 * 65536


def test_a_short_context_does_not_fill_its_window() -> None:
    assert kv_cache(published.GEMMA_3_27B, "llama.cpp", 256) == 62 * 2 * 16 * 128 * 2 * 256


def test_wider_heads_and_shared_values_of_gemma_4() -> None:
    full, windowed = 5 * 2 * 2 * 512 * 2, 25 * 2 * 8 * 256 * 2
    assert growth(published.GEMMA_4_26B, "vllm").nbytes == full
    assert constant(published.GEMMA_4_26B, "vllm").windows == 1024 * windowed


def test_other_heads_in_windows_and_narrower_values_of_mimo_v2() -> None:
    assert growth(published.MIMO_V2_FLASH, "vllm").nbytes == 3 * 4 * (192 + 128) * 2
    assert constant(published.MIMO_V2_FLASH, "vllm").windows == 9 * 128 * 8 * (192 + 128) * 2


def test_fields_that_stand_flat_are_not_taken_for_the_defaults_of_a_composite_class() -> None:
    assert growth(published.STEP_3_7, "vllm").nbytes == 12 * 2 * 8 * 128 * 2


def test_a_type_that_its_publisher_brings_code_for_has_the_cache_of_the_decoder_inside() -> None:
    decoder = {key: value for key, value in published.QWEN3_30B_A3B.items() if key != "architectures"}
    flat = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert growth({"model_type": "internvl_chat", "llm_config": decoder}, "vllm") == growth(decoder, "vllm")
    assert growth({"model_type": "dots_ocr", **flat}, "vllm").nbytes == 4 * 2 * 2 * 64 * 2


def test_an_indexer_keeps_keys_of_its_own() -> None:
    latent = 61 * (512 + 64)
    assert growth(published.DEEPSEEK_V3_2, "vllm").nbytes == 2 * latent + 61 * (128 + 4)
    # FP8 latents with four scales, and their rotary part in BF16.
    assert growth(published.DEEPSEEK_V3_2, "vllm", cache_type="fp8").nbytes == 61 * (512 + 16 + 128 + 128 + 4)
    assert growth(published.DEEPSEEK_V3_2, "llama.cpp").nbytes == 2 * (latent + 61 * 128)


def test_compressed_attention_grows_by_groups_of_tokens() -> None:
    # 21 layers keep a vector of 512 and an index key of 128 for every 4 tokens, 20 a vector for every 128.
    assert growth(published.DEEPSEEK_V4_FLASH, "llama.cpp") == Growth((21 * 32 * 640 + 20 * 512) * 2, tokens=128)
    for engine in ("vllm", "sglang"):
        with pytest.raises(SixfoldError, match="DeepSeek-V4 is not known"):
            growth(published.DEEPSEEK_V4_FLASH, engine)


def test_a_state_is_wider_where_the_engine_or_the_model_keeps_float32() -> None:
    numbers = 36 * (32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128))
    assert constant(published.QWEN3_NEXT_80B, "vllm").states == 2 * numbers
    assert constant(published.QWEN3_NEXT_80B, "llama.cpp").states == 4 * numbers
    convolutions = 36 * 3 * (2 * 16 * 128 + 32 * 128)
    assert constant(published.QWEN3_NEXT_80B, "sglang").states == 4 * numbers - 2 * convolutions


def test_vllm_pads_states_and_attention_to_one_page() -> None:
    state = (8192 * 16 + 3 * 8192) * 2
    token = 2 * 8 * 128 * 2
    block = 80  # the smallest multiple of 16 tokens that is a state at least
    assert (block - 16) * token < state <= block * token
    pages = 28 * 2 + 4 * 2  # two of each state; 81 tokens in two blocks
    assert kv_cache(published.JAMBA, "vllm", 81) == pages * block * token
    assert kv_cache(published.JAMBA, "vllm", 81, sequences=3) == 3 * pages * block * token


def test_states_are_kept_once_for_each_sequence_and_do_not_grow() -> None:
    states = constant(published.JAMBA, "llama.cpp").states
    for sequences, context in ((1, 256), (3, 512)):
        keys = sequences * context * 16_384
        found = kv_cache(published.JAMBA, "llama.cpp", context, sequences=sequences)
        assert found == keys + sequences * states


def test_multi_token_prediction_is_named_and_not_counted() -> None:
    assert len(attention(published.DEEPSEEK_V3).layers) == 61
    assert "1 multi-token prediction layer;" in notes(published.DEEPSEEK_V3)[0]
    assert "3 multi-token prediction layers;" in notes(published.MINIMAX_M2_7)[0]
    assert notes(published.JAMBA) == ()


def test_an_indexers_fp8_layout_is_named() -> None:
    assert any("Hopper's kernels" in note for note in notes(published.DEEPSEEK_V3_2))
    assert not any("Hopper's kernels" in note for note in notes(published.DEEPSEEK_V3))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**published.JAMBA, "model_type": "brand_new"}, "brand_new"),
        ({**published.GPT_OSS_120B, "layer_types": ["astral_attention"] * 36}, "astral_attention"),
        ({**published.MINIMAX_M2_7, "attn_type_list": [0] * 62}, "linear attention of model type 'minimax_m2'"),
        ({**COMMON, "model_type": "jetmoe"}, "jetmoe"),
        ({"model_type": "zaya"}, "zaya"),
        ({"model_type": "whisper"}, "cross attention"),
        ({"model_type": "bert"}, "keys and values of model type 'bert'"),
        ({**published.DEEPSEEK_V3, "model_type": "minicpm3"}, "minicpm3"),
        ({key: value for key, value in published.JAMBA.items() if key != "model_type"}, "no model_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(SixfoldError, match=named):
        growth(config, "vllm")


def test_a_config_that_transformers_reads_otherwise_is_refused() -> None:
    config = {**published.GPT_OSS_120B, "layer_types": ["full_attention"] * 35}
    with pytest.raises(SixfoldError, match="layer_types"):
        growth(config, "vllm")


def test_what_the_engine_cannot_do_is_bad_usage() -> None:
    for engine, cache_type in (("llama.cpp", "fp8"), ("vllm", "q8_0")):
        with pytest.raises(UsageError, match=f"no {cache_type} cache"):
            growth(published.MINIMAX_M2_7, engine, cache_type=cache_type)
    with pytest.raises(UsageError, match="48 attention heads among 5 devices"):
        growth(published.MINIMAX_M2_7, "vllm", tensor_parallel=5)
    with pytest.raises(UsageError, match="8 KV heads cannot be shared by 6 devices"):
        growth(published.MINIMAX_M2_7, "vllm", tensor_parallel=6)
