"""Bytes of KV cache, recurrent states and indexer caches of a model in an engine: exact integers, from its config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from cards.budget.caches.attention import Attention, attention
from cards.budget.caches.engine_caches import (
    CACHE_TYPES,
    SGLANG_WINDOW_SHARE,
    Load,
    llama_cpp,
    sglang,
    vllm,
    vllm_batch,
    vllm_pages,
)
from cards.budget.caches.layer_caches import Cache, Compressed, KeysValues, State
from cards.budget.hardware import ENGINES
from sixfold.errors import UsageError

_BYTES: dict[str, Callable[[Cache, Load], int]] = {"vllm": vllm, "sglang": sglang, "llama.cpp": llama_cpp}


_STEP = 1 << 16
_LONG = 1 << 26
"""Tokens: a multiple of every unit of allocation, and a context beyond every window."""

GPU_80_GB = 80 * 1024**3
"""The device whose engine defaults are used if none is named."""


@dataclass(frozen=True)
class Growth:
    """What a longer context costs once every window is full: `nbytes` for every `tokens` more of one sequence (one,
    but where an attention compresses several into one)."""

    nbytes: int
    tokens: int


@dataclass(frozen=True)
class Constant:
    """What does not grow: windows, once full, in tokens as the model defines them, and recurrent states.
    Bytes of one sequence on one device, without an engine's rounding."""

    windows: int
    states: int


def kv_cache(
    config: Mapping[str, Any],
    engine: str,
    context: int,
    *,
    cache_type: str = "bf16",
    sequences: int = 1,
    tensor_parallel: int = 1,
    device_bytes: int = GPU_80_GB,
) -> int:
    """Bytes on one device that the caches of `sequences` take at `context` tokens each, as the engine allocates them.

    config: of config.json. engine: "vllm", "sglang" or "llama.cpp". cache_type: one of CACHE_TYPES[engine].
    tensor_parallel: devices that share each layer; llama.cpp gives whole layers to them, evenly.
    device_bytes: memory of a device; the batch by which vLLM's windows are larger than the model's depends on it.
    Raises SixfoldError where the model's attention is not known, UsageError where the engine does not support the
    configuration.
    """
    found = attention(config)
    load = load_of(found, engine, context, cache_type, sequences, tensor_parallel, device_bytes)
    if engine == "llama.cpp":
        return -(-_total(found, engine, load) // tensor_parallel)
    return _total(found, engine, load)


def growth(config: Mapping[str, Any], engine: str, *, cache_type: str = "bf16", tensor_parallel: int = 1) -> Growth:
    """See Growth; of one device, as `kv_cache`."""
    found = attention(config)
    ratios = [c.ratio for layer in found.layers for c in layer if isinstance(c, Compressed) and c.ratio]
    share = SGLANG_WINDOW_SHARE[1] if engine == "sglang" and _windowed(found) else 1
    tokens = lcm(share, *ratios)
    load = load_of(found, engine, _LONG, cache_type, 1, tensor_parallel)
    # Far beyond every window, over a step that is a multiple of every unit of allocation.
    step = lcm(tokens, load.block) * _STEP
    longer = _total(found, engine, replace(load, context=_LONG + step)) - _total(found, engine, load)
    if engine == "llama.cpp":
        longer = -(-longer // tensor_parallel)
    return Growth(longer * tokens // step, tokens)


def _total(found: Attention, engine: str, load: Load) -> int:
    return sum(_BYTES[engine](cache, load) for layer in found.layers for cache in layer)


def load_of(
    found: Attention,
    engine: str,
    context: int,
    cache_type: str,
    sequences: int,
    tensor_parallel: int,
    device_bytes: int = GPU_80_GB,
) -> Load:
    """The requested configuration, checked. Raises UsageError where the engine does not support it."""
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", f"choose from {', '.join(ENGINES)}")
    if cache_type not in CACHE_TYPES[engine]:
        raise UsageError(
            f"{engine} has no {cache_type} cache", f"choose from {', '.join(CACHE_TYPES[engine])} for {engine}"
        )
    if min(context, sequences, tensor_parallel) < 1:
        raise UsageError("context, sequences and tensor parallelism are at least 1", "give larger numbers")
    if engine != "llama.cpp" and found.heads % tensor_parallel:
        raise UsageError(
            f"{engine} cannot share {found.heads} attention heads among {tensor_parallel} devices",
            "choose a number of devices that divides them",
        )
    shared = 1 if engine == "llama.cpp" else tensor_parallel
    load = Load(found.model_type, context, cache_type, sequences, shared, vllm_batch(device_bytes)[0])
    return vllm_pages(found.layers, load) if engine == "vllm" else load


def _windowed(found: Attention) -> bool:
    return any(isinstance(c, KeysValues) and c.window is not None for layer in found.layers for c in layer)


def constant(config: Mapping[str, Any], engine: str, *, cache_type: str = "bf16", tensor_parallel: int = 1) -> Constant:
    """See Constant."""
    found = attention(config)
    load = replace(load_of(found, engine, _STEP, cache_type, 1, tensor_parallel), block=1, page=0)
    windows = states = 0
    for cache in (cache for layer in found.layers for cache in layer):
        if isinstance(cache, State):
            states += _BYTES[engine](cache, load)
        elif isinstance(cache, KeysValues) and cache.window is not None:
            windows += cache.window * (_BYTES[engine](replace(cache, window=None), load) // _STEP)
    if engine == "llama.cpp":
        windows, states = -(-windows // tensor_parallel), -(-states // tensor_parallel)
    return Constant(windows, states)
