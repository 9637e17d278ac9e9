"""What llama.cpp allocates for a model, or plans to, as it prints it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.exporters.ggml import llama_cpp

GGML_TYPES = {"bf16": 1, "q8_0": 8, "q4_0": 2}
"""Type of cache -> GGML's number; float16, llama.cpp's default, stands for BF16, whose size it has."""
MIB = 1024**2


@dataclass(frozen=True)
class Request:
    """context: tokens of each sequence."""

    context: int
    sequences: int = 1
    cache_type: str = "bf16"


@dataclass(frozen=True)
class Allocated:
    """Bytes, as far as two decimals of a MiB tell. weights: 0 where nothing was allocated in earnest."""

    weights: float
    kv_cache: float
    compute: float
    output: float

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.compute + self.output


def allocated(model: Path, requests: Sequence[Request], *, simulate: bool = False) -> list[Allocated]:
    """One context after the other, with logits for the last token of each sequence, as llama-server asks for them."""
    jobs = [
        {
            "do": "allocate",
            "model": model,
            "context": request.context * request.sequences,
            "sequences": request.sequences,
            "batch": 512,
            "outputs": request.sequences,
            "cache_type": GGML_TYPES[request.cache_type],
            "flash": True,
            "simulate": simulate,
        }
        for request in requests
    ]
    return [_read("\n".join(log)) for log in llama_cpp.run(jobs)]


def _read(log: str) -> Allocated:
    return Allocated(
        weights=_mib(log, r"model buffer size = +([\d.]+)"),
        kv_cache=_mib(log, r"llama_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB"),
        compute=_mib(log, r"sched_reserve: +\S+ compute buffer size = +([\d.]+)"),
        output=_mib(log, r"output buffer size = +([\d.]+)"),
    )


def _mib(log: str, pattern: str) -> float:
    found = re.findall(pattern, log)
    assert found, log[-2000:]
    return sum(float(value) for value in found) * MIB
