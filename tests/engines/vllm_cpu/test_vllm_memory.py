"""KV caches beside what vLLM's own specifications of them ask for, to the byte."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cards.budget.caches.kv_cache import kv_cache
from tests.cards import published
from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.vllm_cpu.vllm_environment import vllm_python

pytestmark = pytest.mark.engines

CONTEXTS = (100, 4096, 40_000, 131_072)
SCRIPT = Path(__file__).with_name("vllm_caches.py")


def _full(count: int, heads: int, size: int, dtype: str = "bf16", block: int = 16) -> dict[str, Any]:
    return {
        "kind": "full",
        "count": count,
        "num_kv_heads": heads,
        "head_size": size,
        "dtype": dtype,
        "block_size": block,
    }


def _latent(count: int, size: int, dtype: str = "bf16") -> dict[str, Any]:
    return {**_full(count, 1, size, dtype), "kind": "latent"}


def _window(count: int, heads: int, size: int, window: int) -> dict[str, Any]:
    return {**_full(count, heads, size), "kind": "window", "sliding_window": window}


LLAMA_4: dict[str, Any] = {
    "model_type": "llama4_text",
    "num_hidden_layers": 8,
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_chunk_size": 8192,
    "intermediate_size": 8192,
    "num_local_experts": 16,
    "vocab_size": 202048,
}
# What Platform._align_hybrid_block_size chooses for a state of 1,097,728 bytes beside 2,048 bytes a token.
_BLOCK = 544
CASES: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]]]] = {
    "grouped": (published.MINIMAX_M2_7, "bf16", [_full(62, 8, 128)]),
    "fp8": (published.MINIMAX_M2_7, "fp8", [_full(62, 8, 128, "fp8")]),
    "latent": (published.DEEPSEEK_V3, "bf16", [_latent(61, 576)]),
    "indexer": (published.DEEPSEEK_V3_2, "bf16", [_latent(61, 576), _latent(61, 132, "uint8")]),
    "windows": (published.GPT_OSS_120B, "bf16", [_full(18, 8, 64), _window(18, 8, 64, 128)]),
    "wide windows": (published.GEMMA_3_27B, "bf16", [_full(10, 16, 128), _window(52, 16, 128, 1024)]),
    "chunks": (
        LLAMA_4,
        "bf16",
        [_full(2, 8, 128), {**_full(6, 8, 128), "kind": "chunk", "attention_chunk_size": 8192}],
    ),
    "delta net": (
        published.QWEN3_NEXT_80B,
        "bf16",
        [
            _full(12, 2, 256, block=_BLOCK),
            {
                "kind": "state",
                "count": 36,
                "shapes": [[3, 8192], [32, 128, 128]],
                "dtypes": ["bf16", "bf16"],
                "block_size": _BLOCK,
                "page_size_padded": _BLOCK * 2048,
            },
        ],
    ),
}


@pytest.fixture(scope="module")
def asked() -> dict[str, list[int]]:
    """Name of a case -> bytes at each of CONTEXTS."""
    try:
        python = vllm_python()
    except Unavailable as reason:
        pytest.skip(str(reason))
    cases = [{"context": context, "layers": layers} for _, _, layers in CASES.values() for context in CONTEXTS]
    done = subprocess.run([python, SCRIPT], input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[i * len(CONTEXTS) : (i + 1) * len(CONTEXTS)] for i, name in enumerate(CASES)}


@pytest.mark.parametrize("name", CASES)
def test_a_cache_is_what_vllm_asks_for(name: str, asked: dict[str, list[int]]) -> None:
    config, cache_type, _ = CASES[name]
    assert [kv_cache(config, "vllm", context, cache_type=cache_type) for context in CONTEXTS] == asked[name]
