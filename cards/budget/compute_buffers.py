"""Memory of a forward pass besides weights and caches, and what engines keep free: llama.cpp's buffers by the rules of
its allocator, vLLM's and SGLang's as estimates."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cards.budget.caches.attention import attention
from cards.budget.caches.engine_caches import LLAMA_CPP_BATCH, Load, llama_cpp_cells, vllm_batch
from cards.budget.caches.layer_caches import Cache, Compressed, IndexKeys, KeysValues, Latent
from cards.budget.text_config import decoder_fields, field_of, text_config
from sixfold.errors import SixfoldError

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True)
class Sizes:
    """Numbers of one token. hidden, vocabulary: of the model. query, key: of all heads of the widest attention, of a
    latent's as they are taken into it. expanded: of all heads before that, 0 without a latent.
    dense, experts: between the projections of a dense MLP, and of all experts that a token goes to; 0 without them.
    outputs: of those experts before they are summed. chosen: tokens that an indexer beside a latent chooses;
    index_heads: of an indexer of blocks; 0 without them."""

    hidden: int
    vocabulary: int
    query: int
    key: int
    expanded: int
    dense: int
    experts: int
    outputs: int
    chosen: int = 0
    index_heads: int = 0


@dataclass(frozen=True)
class Buffers:
    """Bytes on one device. compute: of a forward pass. reserve: what the engine takes or leaves free besides."""

    compute: int
    reserve: int


def sizes(config: Mapping[str, Any]) -> Sizes:
    """From config.json. Raises SixfoldError as cards.budget.caches.attention."""
    try:
        return _sizes(json.dumps(decoder_fields(config), sort_keys=True, default=str))
    except (AttributeError, KeyError, TypeError) as error:
        raise SixfoldError(
            f"the config lacks what the size of compute buffers is derived from ({' '.join(str(error).split())})",
            "compare it with the original model's config.json",
        ) from error


@functools.cache
def _sizes(text_of_fields: str) -> Sizes:
    config = json.loads(text_of_fields)
    found = attention(config)
    caches = [cache for layer in found.layers for cache in layer]
    query, key = _widest(found.heads, caches)
    if "block_configs" in config:  # transformers does not know it; its MLPs are stated by a multiplier
        hidden = config["hidden_size"]
        widest = max(block["ffn"]["ffn_mult"] or 0 for block in config["block_configs"])
        return Sizes(hidden, config["vocab_size"], query, key, 0, int(2 * widest * hidden / 3), 0, 0)
    text = text_config(config)
    experts = _first(text, ("num_experts_per_tok", "top_k_experts", "moe_k", "moe_top_k"))
    width = _first(text, ("moe_intermediate_size", "intermediate_size"))
    if not _first(text, ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")):
        experts = 0
    dense = _first(text, ("intermediate_size",))
    return Sizes(
        text.hidden_size,
        text.vocab_size,
        query,
        key,
        expanded=found.heads * _expanded(text) if any(isinstance(c, Latent) for c in caches) else 0,
        dense=dense,
        experts=experts * width,
        outputs=experts * text.hidden_size,
        chosen=text.index_topk if any(isinstance(c, IndexKeys) and c.of_latent for c in caches) else 0,
        index_heads=text.index_n_heads if any(isinstance(c, IndexKeys) and not c.of_latent for c in caches) else 0,
    )


def llama_cpp_buffers(config: Mapping[str, Any], load: Load) -> Buffers:
    """The graph of a batch of 512 tokens, as ggml's allocator lays it out, and the logits of each sequence's last token
    (llama-server and llama-cli; programs that take all logits need 512 rows of them).

    A batch has float16 masks over all cells of the cache, and over a window's. Besides, the most that is alive at
    once: at the feed-forward, five vectors of the hidden size (one of them the residual) with gate, up and their
    product, with the experts' outputs where they do not fit in the place of gate and up; or at the attention, queries
    before and after it; or at the end, the logits. All in float32, with 36 bytes of indices a token.

    An indexer has scores and a mask of its own over all cells, and what it chooses, three times; one of blocks has two
    scores for each of its heads, which may be the most that is alive at once. Fitted to what llama.cpp plans.
    """
    found = sizes(config)
    caches = [cache for layer in attention(config).layers for cache in layer]
    batch = min(LLAMA_CPP_BATCH, load.sequences * load.context)
    # One mask for layers that see all, one for those with a window.
    windowed = [isinstance(c, KeysValues) and c.window is not None for c in caches]
    cells = sum(
        max((llama_cpp_cells(c, load) for c, narrow in zip(caches, windowed, strict=True) if narrow == mask), default=0)
        for mask in (False, True)
    )
    rows = batch * max(_feed_forward(found), _attention(found), 5 * found.hidden)
    last = batch * 5 * found.hidden + load.sequences * found.vocabulary
    blocks = batch * (6 * found.hidden + cells * (2 * found.index_heads + 1)) if found.index_heads else 0
    indexer = batch * (6 * cells + 12 * min(found.chosen, cells)) if found.chosen else 0
    compute = 2 * batch * cells + 36 * batch + 4 * max(rows, last, blocks) + indexer
    return Buffers(compute, 4 * load.sequences * found.vocabulary)


def _feed_forward(s: Sizes) -> int:
    """Freed places are used again: two of the hidden size lie side by side before the gate, which is what a narrow one
    fits into; the experts' outputs go where gate and up were, if those are as large."""
    dense = (2 if s.dense <= 2 * s.hidden else 3) * s.dense
    if s.experts <= s.hidden:
        experts = max(3 * s.experts, s.outputs)
    else:
        experts = 3 * s.experts + (s.outputs if 2 * s.experts < s.outputs else 0)
    return 5 * s.hidden + max(dense, experts)


def _attention(s: Sizes) -> int:
    """Keys and values of their own heads (not grouped) find no freed place that holds them."""
    residuals = 4 if s.query <= s.hidden else 5
    apart = 2 * s.key if s.key > max(s.hidden, s.query // 2) else 0
    return residuals * s.hidden + 2 * s.query + s.expanded + apart


def vllm_buffers(config: Mapping[str, Any], load: Load, device_bytes: int) -> Buffers:
    """The peak that vLLM finds by a dummy run of its largest batch: one layer's values in BF16, or the sampler's logits
    of as many sequences as it may run, in float32 with two copies; and a context of CUDA, its graphs and NCCL."""
    found = sizes(config)
    tokens, most_sequences = vllm_batch(device_bytes)
    shared = load.tensor_parallel
    widest = max(3 * found.dense // shared, 3 * found.experts // shared + found.outputs)
    layer = 4 * found.hidden + max(widest, 2 * (found.query + found.key) // shared)
    logits = 3 * 4 * most_sequences * found.vocabulary
    return Buffers(max(2 * tokens * layer, logits), GIB + (GIB // 2 if shared > 1 else 0))


def sglang_buffers(load: Load, device_bytes: int) -> Buffers:
    """What SGLang leaves free by its own rule: 512 MiB and 1.5 MiB for each token of a prefill chunk; an eighth of a
    GiB for each device that shares the model and 2 MiB for each sequence of its largest decode graph; in all at least
    10 GiB on a GPU of more than 60."""
    chunk, graph = next(
        (tokens, batch[load.tensor_parallel >= 4])
        for below, tokens, batch in _SGLANG_DEFAULTS
        if device_bytes < below * GIB
    )
    compute = 512 * MIB + chunk * 3 * MIB // 2
    reserve = load.tensor_parallel * GIB // 8 + graph * 2 * MIB
    floor = 10 * GIB if device_bytes > 60 * GIB else 0
    return Buffers(compute, max(reserve, floor - compute))


_SGLANG_DEFAULTS = (
    (20, 2048, (8, 8)),
    (35, 4096, (48, 160)),
    (60, 4096, (32, 160)),
    (160, 8192, (256, 512)),
    (1 << 20, 16384, (512, 512)),
)
"""GiB of the device below which they hold, tokens of a prefill chunk, sequences of the largest decode graph on fewer
than four devices and on more."""


def _widest(heads: int, caches: list[Cache]) -> tuple[int, int]:
    """Numbers of all queries and of all keys of the widest attention."""
    found = [(0, 0)]
    for cache in caches:
        match cache:
            case KeysValues():
                found.append((heads * cache.key, cache.heads * cache.key))
            case Latent():
                found.append((heads * (cache.rank + cache.rope), cache.rank + cache.rope))
            case Compressed():
                found.append((heads * cache.width, cache.width))
    return max(found)


def _expanded(config: Any) -> int:
    return int(config.qk_nope_head_dim + config.qk_rope_head_dim)


def _first(config: Any, names: tuple[str, ...]) -> int:
    for name in names:
        value = field_of(config, name)
        if isinstance(value, int) and value:
            return value
    return 0
