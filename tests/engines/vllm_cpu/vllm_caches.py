"""Run by vLLM's own Python: bytes that its KV cache specifications ask for. JSON in on stdin, JSON out on stdout.

In: a list of {"context": tokens, "layers": [{"kind", "count" and the specification's fields}]}. Out: bytes of each.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.v1 import kv_cache_interface as vllm

IN_FLIGHT = 2 * 8192
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "uint8": torch.uint8}
KINDS = {
    "full": vllm.FullAttentionSpec,
    "window": vllm.SlidingWindowSpec,
    "chunk": vllm.ChunkedLocalAttentionSpec,
    "latent": vllm.MLAAttentionSpec,
    "state": vllm.MambaSpec,
}


def main() -> None:
    sys.stdout.write(json.dumps([_bytes(case["context"], case["layers"]) for case in json.load(sys.stdin)]) + "\n")


def _bytes(context: int, layers: list[dict[str, Any]]) -> int:
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=context),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        cache_config=SimpleNamespace(mamba_cache_mode="align"),
        max_in_flight_tokens=IN_FLIGHT,
    )
    return sum(layer["count"] * _spec(layer).max_memory_usage_bytes(config) for layer in layers)


def _spec(layer: dict[str, Any]) -> Any:
    fields = {key: value for key, value in layer.items() if key not in {"kind", "count"}}
    if layer["kind"] == "state":
        shapes = tuple(tuple(shape) for shape in fields.pop("shapes"))
        dtypes = tuple(DTYPES[name] for name in fields.pop("dtypes"))
        return vllm.MambaSpec(shapes=shapes, dtypes=dtypes, mamba_cache_mode="align", **fields)
    return KINDS[layer["kind"]](dtype=DTYPES[fields.pop("dtype")], **fields)


if __name__ == "__main__":
    main()
