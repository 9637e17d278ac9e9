"""How many bytes each engine keeps for one layer's caches: vLLM 0.32, SGLang 0.5.23, llama.cpp of October 2026."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from cards.budget.caches.layer_caches import Cache, Compressed, IndexKeys, KeysValues, Latent, Layer, State
from sixfold.errors import SixfoldError, UsageError

CACHE_TYPES = {
    "vllm": ("bf16", "fp8"),
    "sglang": ("bf16", "fp8"),
    "llama.cpp": ("bf16", "q8_0", "q4_0"),
}
"""Engine -> the types of cache that it has, its default first (llama.cpp's is FP16, of the same size)."""

VLLM_BLOCK = 16
"""Tokens of a block, vLLM's unit of allocation, where layers keep nothing but tokens."""
VLLM_STATES = 2
"""State pages of a sequence beside an attention: the present one and the one that prefix caching resumes from
(mamba_cache_mode "align", which vLLM chooses where prefix caching is on, as by default)."""
VLLM_BATCHES = 2
"""Batches whose tokens may be scheduled and not yet settled (asynchronous scheduling); windows keep their blocks."""

LLAMA_CPP_PADDING = 256
"""llama.cpp rounds contexts and windows up to so many cells."""
LLAMA_CPP_BATCH = 512
"""Tokens of llama.cpp's physical batch (--ubatch-size), which its windows hold besides."""

SGLANG_WINDOW_SHARE = (4, 5)
"""SGLang sizes the pool of windowed layers as 4/5 of the full layers' tokens (--swa-full-tokens-ratio 0.8), whatever
the window."""

_SGLANG_WINDOWED = {
    "llama4_text",
    "gpt_oss",
    "granite_swa",
    "granitemoe_swa",
    "mimo_v2_flash",
    "step3p5",
    "gemma4_text",
    "gemma4_unified_text",
    "laguna",
    "mellum",
}
"""Types for which SGLang has a pool of windows (is_hybrid_swa_model); others keep all tokens in every layer."""
_LLAMA_CPP_WINDOWED = {
    "afmoe",
    "cohere2",
    "cohere2_moe",
    "exaone4",
    "exaone_moe",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "gpt_oss",
    "granite_swa",
    "granitemoe_swa",
    "laguna",
    "llama4_text",
    "mellum",
    "mimo_v2_flash",
    "olmo3",
    "step3p5",
}
"""Types whose windows llama.cpp knows (swa_type in its src/models)."""
_LLAMA_CPP_WHOLE = {
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "starcoder2",
}
"""Types that may have windows which llama.cpp ignores: every layer keeps all tokens."""

_FLOATS = {"float32": 4, "bfloat16": 2, "float16": 2}
_BLOCKS = {"q8_0": 34, "q4_0": 18}
"""GGML type -> bytes of a block of 32 numbers."""


@dataclass(frozen=True)
class Load:
    """The requested configuration. context: tokens of each sequence. sequences: how many in parallel.
    tensor_parallel: devices that share every layer (1 for llama.cpp). batch: tokens of vLLM's largest batch.
    block, page: tokens of vLLM's block, and bytes of the page that a state is padded to beside an attention, 0 where
    there are not both."""

    model_type: str
    context: int
    cache_type: str
    sequences: int
    tensor_parallel: int
    batch: int
    block: int = VLLM_BLOCK
    page: int = 0


def vllm(cache: Cache, load: Load) -> int:
    """Bytes on one device, as vLLM's KVCacheSpec.max_memory_usage_bytes has them for one sequence. Tokens in flight are
    counted once, not for each sequence."""
    match cache:
        case KeysValues():
            slots = _vllm_slots(cache, load)
            return slots * _token_bytes(cache, load)
        case Latent():
            return _vllm_whole(load) * _latent_bytes(cache, load)
        case IndexKeys():
            return _vllm_whole(load) * _index_bytes(cache)
        case State():
            if load.page:
                return load.sequences * VLLM_STATES * load.page
            return load.sequences * _vllm_state_bytes(cache, load)
        case Compressed():
            raise _unknown_compressed("vLLM")


def sglang(cache: Cache, load: Load) -> int:
    """Bytes on one device, as SGLang's pool configurators share them out, for pools of so many tokens."""
    tokens = load.context * load.sequences
    match cache:
        case KeysValues():
            if cache.window is not None and load.model_type in _SGLANG_WINDOWED:
                tokens = tokens * SGLANG_WINDOW_SHARE[0] // SGLANG_WINDOW_SHARE[1]
            return tokens * _token_bytes(cache, load)
        case Latent():
            return tokens * _latent_bytes(cache, load)
        case IndexKeys():
            return tokens * _index_bytes(cache)
        case State():
            return load.sequences * _state_bytes(
                cache, load, convolution=2, recurrent=_FLOATS[cache.dtype or "float32"]
            )
        case Compressed():
            raise _unknown_compressed("SGLang")


def llama_cpp(cache: Cache, load: Load) -> int:
    """Bytes on all devices together, as llama_kv_cache, llama_kv_cache_iswa, llama_kv_cache_dsa, llama_kv_cache_msa,
    llama_kv_cache_dsv4 and llama_memory_recurrent allocate them for sequences with a stream of cells each (-np N, not
    --kv-unified)."""
    cells = llama_cpp_cells(cache, load)
    match cache:
        case KeysValues():
            row = _ggml_bytes(cache.heads * cache.key, cache.key, load) + _ggml_bytes(
                cache.heads * cache.value, cache.value, load
            )
            return load.sequences * cells * row
        case Latent():
            return load.sequences * cells * _ggml_bytes(cache.rank + cache.rope, cache.rank + cache.rope, load)
        case IndexKeys():
            width = cache.width if cache.of_latent else 2 * cache.width  # MiniMax-M3's comes with unused values
            return load.sequences * cells * _ggml_bytes(width, cache.width, load)
        case State():
            return load.sequences * 4 * (cache.convolution() + cache.recurrent)
        case Compressed():
            return load.sequences * _llama_cpp_compressed(cache, load)


def vllm_pages(layers: Sequence[Layer], load: Load) -> Load:
    """With vLLM's block and page where a model has states and attention: a block is as many tokens (a multiple of
    16, beside a latent of 128) as make one layer's page at least a state, and states are padded to it
    (Platform._align_hybrid_block_size)."""
    caches = [cache for layer in layers for cache in layer]
    state = max((_vllm_state_bytes(cache, load) for cache in caches if isinstance(cache, State)), default=0)
    attention = next((cache for cache in caches if isinstance(cache, (KeysValues, Latent))), None)
    if not state or attention is None:
        return load
    latent = isinstance(attention, Latent)
    token = _latent_bytes(attention, load) if isinstance(attention, Latent) else _token_bytes(attention, load)
    multiple = 128 if latent else VLLM_BLOCK
    block = multiple * ceil(state / (multiple * token))
    return replace(load, block=block, page=block * token)


def vllm_batch(device_bytes: int) -> tuple[int, int]:
    """Tokens of a batch and sequences that `vllm serve` takes at most, by the size of a device."""
    if device_bytes >= 160 * 1024**3:
        return 16384, 1024
    return (8192, 1024) if device_bytes >= 70 * 1024**3 else (2048, 256)


def llama_cpp_cells(cache: Cache, load: Load) -> int:
    """Cells that one sequence has in a cache of tokens; 0 for a state."""
    if isinstance(cache, State):
        return 0
    cells = _padded(load.context)
    if isinstance(cache, KeysValues) and cache.window is not None and _llama_cpp_windowed(load.model_type):
        return _padded(min(cells, cache.window + LLAMA_CPP_BATCH))
    return cells


def _vllm_whole(load: Load) -> int:
    return load.sequences * ceil(load.context / load.block) * load.block


def _vllm_state_bytes(cache: State, load: Load) -> int:
    return _state_bytes(cache, load, convolution=2, recurrent=_FLOATS[cache.dtype or "bfloat16"])


def _token_bytes(cache: KeysValues, load: Load) -> int:
    return _heads(cache.heads, load) * (cache.key + cache.value) * _float(load)


def _vllm_slots(cache: KeysValues, load: Load) -> int:
    """Token slots of all sequences. Of a sliding window, one block more: it need not begin where a block does."""
    if cache.window is None:
        return _vllm_whole(load)
    kept = cache.window if cache.chunked else cache.window - 1
    extra = 0 if cache.chunked else 1
    first = ceil(min(kept + VLLM_BATCHES * load.batch, load.context) / VLLM_BLOCK) + extra
    further = ceil(min(kept, load.context) / VLLM_BLOCK) + extra
    return VLLM_BLOCK * (first + (load.sequences - 1) * further)


def _heads(heads: int, load: Load) -> int:
    """KV heads on one device: shared out, or copied where there are fewer heads than devices."""
    if heads % load.tensor_parallel and load.tensor_parallel % heads:
        raise UsageError(
            f"{heads} KV heads cannot be shared by {load.tensor_parallel} devices",
            "choose a number of devices that divides them or is a multiple of them",
        )
    return max(1, heads // load.tensor_parallel)


def _float(load: Load) -> int:
    return 1 if load.cache_type == "fp8" else 2


def _latent_bytes(cache: Latent, load: Load) -> int:
    """A token's, whole on every device. FP8 beside an indexer has the rope part in BF16, and a scale for each 128."""
    if cache.sparse and load.cache_type == "fp8":
        return cache.rank + cache.rank // 128 * 4 + cache.rope * 2
    return (cache.rank + cache.rope) * _float(load)


def _index_bytes(cache: IndexKeys) -> int:
    return cache.width + cache.width // 128 * 4 if cache.of_latent else cache.width * 2


def _state_bytes(cache: State, load: Load, convolution: int, recurrent: int) -> int:
    if (cache.heads or cache.channels) % load.tensor_parallel:
        raise UsageError(
            f"{cache.heads or cache.channels} heads of {cache.kind} cannot be shared by {load.tensor_parallel} devices",
            "choose a number of devices that divides them",
        )
    numbers = cache.recurrent // load.tensor_parallel
    return convolution * cache.convolution(load.tensor_parallel) + recurrent * numbers


def _padded(tokens: int) -> int:
    return ceil(tokens / LLAMA_CPP_PADDING) * LLAMA_CPP_PADDING


def _llama_cpp_windowed(model_type: str) -> bool:
    if model_type not in _LLAMA_CPP_WINDOWED | _LLAMA_CPP_WHOLE:
        raise SixfoldError(
            f"whether llama.cpp knows the sliding window of model type {model_type!r} is not known, and not guessed",
            "leave out the budget for it, or add the type to cards/budget/caches/engine_caches.py",
        )
    return model_type in _LLAMA_CPP_WINDOWED


def _ggml_bytes(numbers: int, width: int, load: Load) -> int:
    """Bytes of a row of heads of `width` numbers each, which blocks of 32 must divide."""
    if load.cache_type == "bf16":
        return 2 * numbers
    if width % 32:
        raise UsageError(
            f"a {load.cache_type} cache needs heads of a multiple of 32 numbers, not {width}", "use --cache-type bf16"
        )
    return numbers // 32 * _BLOCKS[load.cache_type]


def _llama_cpp_compressed(cache: Compressed, load: Load) -> int:
    """One sequence's: the window, the compressed vectors and index keys, and in float32 what is being compressed: sums
    and scores of the rows of one group, or of two that overlap (ratio 4, the indexed one)."""
    context = _padded(load.context)
    recent = _padded(min(context, cache.window + LLAMA_CPP_BATCH))
    total = recent * _ggml_bytes(cache.width, cache.width, load)
    if not cache.ratio:
        return total
    groups = _padded(ceil(context / cache.ratio))
    overlap = 2 if cache.index else 1
    rows = overlap * cache.ratio
    total += groups * _ggml_bytes(cache.width, cache.width, load) + 2 * 4 * rows * overlap * cache.width
    if cache.index:
        total += groups * _ggml_bytes(cache.index, cache.index, load) + 2 * 4 * rows * overlap * cache.index
    return total


def _unknown_compressed(engine: str) -> SixfoldError:
    return SixfoldError(
        f"how {engine} pools the compressed attention of DeepSeek-V4 is not known, and not guessed",
        "budgets of it are for llama.cpp alone",
    )
