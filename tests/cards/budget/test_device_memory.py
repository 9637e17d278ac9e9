"""Predicted memory against what llama.cpp allocates, and the longest context against the memory it is derived from."""

import json
from pathlib import Path
from typing import Any

import pytest

from cards.budget.device_memory import longest_context, longest_trained, memory
from cards.budget.hardware import Hardware, hardware_named
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import open_source
from tests.cards import published
from tests.cards.budget.llama_cpp_memory import Request, allocated
from tests.cards.gguf_outline import outlined
from tests.exporters.ggml.gguf_tools import export, recipe

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
GIB = 1024**3
PRINTED = 0.0051 * 1024**2
"""llama.cpp prints two decimals of a MiB."""

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
WIDE_ATTENTION = {
    **DENSE,
    "model_type": "llama",
    "hidden_size": 512,
    "num_attention_heads": 32,
    "intermediate_size": 512,
}
REQUESTS = (Request(300), Request(4096), Request(65536), Request(4096, sequences=4), Request(8192, cache_type="q8_0"))


@pytest.mark.parametrize(
    "config",
    [
        published.MINIMAX_M2_7,
        published.QWEN3_30B_A3B,
        {**published.DEEPSEEK_V3, "num_hidden_layers": 4},
        published.GEMMA_3_27B["text_config"],
        published.QWEN3_NEXT_80B,
        published.JAMBA_DENSE,
        {**published.DEEPSEEK_V3_2, "num_hidden_layers": 4},
        published.MINIMAX_M3,
        DENSE,
        WIDE_ATTENTION,
    ],
    ids=[
        "minimax-m2.7",
        "qwen3-30b-a3b",
        "latent",
        "windows",
        "delta net",
        "mamba",
        "indexer",
        "sparse blocks",
        "dense",
        "wide attention",
    ],
)
def test_the_prediction_is_what_llama_cpp_plans_for_a_model_of_full_size(
    config: dict[str, Any], tmp_path: Path
) -> None:
    fitted = "index_topk" in config or "sparse_attention_config" in config
    with outlined(config, tmp_path) as (file, weights):
        for request, planned in zip(REQUESTS, allocated(file, REQUESTS, simulate=True), strict=True):
            predicted = _predicted(config, weights, request)
            assert predicted.kv_cache == pytest.approx(planned.kv_cache, abs=PRINTED)
            assert predicted.reserve == pytest.approx(planned.output, abs=PRINTED)
            assert predicted.compute == pytest.approx(planned.compute, rel=0.25 if fitted else 0.02)
            assert predicted.total == pytest.approx(weights + planned.total, rel=0.001)


@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_K_M"])
def test_the_prediction_is_what_llama_cpp_allocates_for_the_demo(scheme: str, tmp_path: Path) -> None:
    plan, file = export(open_source(DEMO), recipe(scheme, imatrix=False), tmp_path)
    config = json.loads((DEMO / "config.json").read_text())
    weights = sum(tensor.nbytes for tensor in plan.tensors)
    for request, real in zip(REQUESTS, allocated(file, REQUESTS), strict=True):
        predicted = _predicted(config, weights, request)
        assert predicted.kv_cache == pytest.approx(real.kv_cache, abs=PRINTED)
        assert predicted.total == pytest.approx(real.total, rel=0.02)


def _predicted(config: dict[str, Any], weights: int, request: Request) -> Any:
    return memory(
        config, weights, "llama.cpp", request.context, cache_type=request.cache_type, sequences=request.sequences
    )


WEIGHTS = 60 * 10**9


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
@pytest.mark.parametrize("machine", ["h100", "2x-h100", "rtx-pro-6000"])
def test_the_longest_context_fits_and_one_token_more_does_not(engine: str, machine: str) -> None:
    hardware = hardware_named(machine)
    longest = longest_context(published.MINIMAX_M2_7, WEIGHTS, engine, hardware)
    assert longest is not None
    assert _fits(engine, hardware, longest)
    assert longest == longest_trained(published.MINIMAX_M2_7) or not _fits(engine, hardware, longest + 1)


def _fits(engine: str, hardware: Hardware, context: int) -> bool:
    needed = memory(
        published.MINIMAX_M2_7,
        WEIGHTS,
        engine,
        context,
        tensor_parallel=hardware.devices,
        device_bytes=hardware.bytes_each,
    )
    return needed.total <= hardware.usable(engine)


def test_a_model_that_is_larger_than_the_machine_does_not_fit() -> None:
    assert longest_context(published.MINIMAX_M2_7, WEIGHTS, "vllm", hardware_named("rtx-4090")) is None


def test_a_context_is_at_most_what_the_config_allows() -> None:
    assert longest_context(published.QWEN3_30B_A3B, 10**9, "vllm", hardware_named("h200")) == 40960
    with pytest.raises(SixfoldError, match="how long a context"):
        longest_trained({"model_type": "llama"})


def test_more_sequences_and_a_wider_cache_leave_less_context() -> None:
    hardware = hardware_named("h100")
    alone = longest_context(published.MINIMAX_M2_7, WEIGHTS, "vllm", hardware)
    four = longest_context(published.MINIMAX_M2_7, WEIGHTS, "vllm", hardware, sequences=4)
    narrow = longest_context(published.MINIMAX_M2_7, WEIGHTS, "vllm", hardware, cache_type="fp8")
    assert alone is not None
    assert narrow is not None
    assert four == alone // 4 // 16 * 16
    assert alone < narrow <= 2 * alone + 16


def test_every_part_that_is_an_estimate_says_so() -> None:
    of = {e: memory(published.GPT_OSS_120B, WEIGHTS, e, 8192) for e in ("vllm", "sglang", "llama.cpp")}
    assert all("estimate" in sentence for engine in ("vllm", "sglang") for sentence in of[engine].estimates)
    assert "within 0.5 %" in of["llama.cpp"].estimates[0]
    shared = memory(published.GPT_OSS_120B, WEIGHTS, "vllm", 8192, tensor_parallel=2)
    assert shared.weights == WEIGHTS // 2
    assert any("even share" in sentence for sentence in shared.estimates)
    assert of["vllm"].total == sum((of["vllm"].weights, of["vllm"].kv_cache, of["vllm"].compute, of["vllm"].reserve))


def test_there_is_no_context_of_no_tokens() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        memory(published.MINIMAX_M2_7, WEIGHTS, "vllm", 0)
