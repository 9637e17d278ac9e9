"""What running a model takes on each device: weights, KV cache, compute buffers, and what the engine keeps besides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cards.hardware import Hardware


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    weights: of the artifact; under tensor parallelism the device's share.
    kv_cache: of all parallel sequences at full context, with recurrent states and indexer caches: exact.
    compute: buffers of a forward pass. reserve: what the engine takes besides.
    estimates: one sentence for each part that is an estimate, with how far off it has been where that was measured.
    """

    weights: int
    kv_cache: int
    compute: int
    reserve: int
    estimates: tuple[str, ...]

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.reserve


def memory(
    config: Mapping[str, Any],
    weights: int,
    engine: str,
    context: int,
    *,
    cache_type: str = "bf16",
    sequences: int = 1,
    tensor_parallel: int = 1,
) -> Memory:
    """Memory of one device.

    config: of config.json. weights: bytes of the artifact's weights in all. engine: "vllm", "llama.cpp" or "sglang".
    context: tokens of each sequence. cache_type: "bf16", "fp8" (vLLM, SGLang), "q8_0" or "q4_0" (llama.cpp).
    sequences: how many run side by side, each with a full context. tensor_parallel: devices that share the model.
    Raises SixfoldError where the config has a kind of attention that is not known, naming it; UsageError where the
    engine has no such cache type or cannot share the model so.
    """
    raise NotImplementedError


def longest_context(
    config: Mapping[str, Any],
    weights: int,
    engine: str,
    hardware: Hardware,
    *,
    cache_type: str = "bf16",
    sequences: int = 1,
) -> int | None:
    """Tokens of the longest context that fits on the machine's devices, at most what the config allows; None where not
    even the shortest does. Raises as `memory`."""
    raise NotImplementedError
