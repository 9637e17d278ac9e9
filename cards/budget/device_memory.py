"""Memory that running a model takes on each device: weights, KV cache, compute buffers, and the engine's reserve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cards.budget.caches.attention import attention
from cards.budget.caches.kv_cache import GPU_80_GB, kv_cache, load_of
from cards.budget.compute_buffers import llama_cpp_buffers, sglang_buffers, vllm_buffers
from cards.budget.hardware import Hardware
from cards.budget.text_config import decoder_fields
from sixfold.errors import SixfoldError

_LLAMA_CPP_COMPUTE = (
    "llama.cpp's compute buffer is computed by the rules of its allocator; in total the prediction has been within"
    " 0.5 % of what llama.cpp allocated or planned for every model measured: dense and mixtures"
    " of experts, with grouped queries, latents, windows, Mamba, gated delta nets and indexers (beside those the"
    " buffer alone was off by up to 43 %); other kinds have not been measured"
)
_VLLM_COMPUTE = (
    "vLLM's compute buffers and the 1 GiB (1.5 on several GPUs) for CUDA, its graphs and NCCL are estimates that have"
    " not been measured here; vLLM prints its own figures when it starts"
)
_SGLANG_COMPUTE = (
    "SGLang's compute buffers and reserve are what it leaves free by its own rule, an estimate that has not been"
    " measured here"
)
_SHARES = (
    "each of {} devices is taken to hold an even share of the weights; norms, routers and what else is copied to each"
    " is not counted, an estimate that has not been measured here"
)
_PAGES = (
    "layers of different kinds are counted one by one; vLLM and SGLang pool them in groups of equal size, and what that"
    " rounds up is not counted: an estimate that has not been measured here"
)


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
    device_bytes: int = GPU_80_GB,
) -> Memory:
    """Memory of one device.

    config: of config.json. weights: total bytes of the artifact's weights. engine: "vllm", "llama.cpp" or "sglang".
    context: tokens of each sequence. cache_type: "bf16", "fp8" (vLLM, SGLang), "q8_0" or "q4_0" (llama.cpp).
    sequences: how many run in parallel, each with a full context. tensor_parallel: devices that share the model;
    llama.cpp gives each its layers. device_bytes: memory of a device, on which vLLM's and SGLang's batches depend.
    Raises SixfoldError where the config has a kind of attention that is not known, naming it; UsageError where the
    engine has no such cache type or cannot share the model so.
    """
    found = attention(config)
    load = load_of(found, engine, context, cache_type, sequences, tensor_parallel, device_bytes)
    if engine == "llama.cpp":
        buffers, estimates = llama_cpp_buffers(config, load), [_LLAMA_CPP_COMPUTE]
    elif engine == "vllm":
        buffers, estimates = vllm_buffers(config, load, device_bytes), [_VLLM_COMPUTE]
    else:
        buffers, estimates = sglang_buffers(load, device_bytes), [_SGLANG_COMPUTE]
    if tensor_parallel > 1:
        estimates.append(_SHARES.format(tensor_parallel))
    if engine != "llama.cpp" and len(set(found.layers) - {()}) > 1:
        estimates.append(_PAGES)
    cache = kv_cache(
        config,
        engine,
        context,
        cache_type=cache_type,
        sequences=sequences,
        tensor_parallel=tensor_parallel,
        device_bytes=device_bytes,
    )
    return Memory(-(-weights // tensor_parallel), cache, buffers.compute, buffers.reserve, tuple(estimates))


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
    allowed = longest_trained(config)

    def fits(context: int) -> bool:
        needed = memory(
            config,
            weights,
            engine,
            context,
            cache_type=cache_type,
            sequences=sequences,
            tensor_parallel=hardware.devices,
            device_bytes=hardware.bytes_each,
        )
        return needed.total <= hardware.usable(engine)

    if not fits(1):
        return None
    if fits(allowed):
        return allowed
    low, high = 1, allowed  # the first fits, the second does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def longest_trained(config: Mapping[str, Any]) -> int:
    """Longest context that the config allows, in tokens (max_position_embeddings)."""
    fields = decoder_fields(config)
    for name in ("max_position_embeddings", "model_max_length", "n_positions", "max_seq_len"):
        value = fields.get(name)
        if isinstance(value, int) and value > 0:
            return value
    raise SixfoldError("the config does not say how long a context the model allows", "give max_position_embeddings")
