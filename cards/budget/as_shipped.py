"""What a checkpoint that is published in MXFP4 (gpt-oss) takes as it is: engines read it without another export."""

import re
from math import prod

from sixfold.checkpoint.checkpoint import Checkpoint

_EXPERTS = re.compile(r"\.experts\.(\d+\.)?(gate_up|gate|up|down)_proj(\.weight)?$")
_BLOCK, _BLOCK_BYTES = 32, 17
"""MXFP4: 32 codes of four bits and a scale of eight."""


def mxfp4_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes of all tensors as they are stored, None where the experts are not in MXFP4.

    Of a config.json alone, whose tensors appear as BF16, its quantization_config says so: the experts' matrices are
    stored in blocks, and nothing else is.
    """
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method")
    stored = [t for t in checkpoint.tensors.values() if t.stored_as == "mxfp4"]
    if checkpoint.bare and method == "mxfp4":
        stored = [t for t in checkpoint.tensors.values() if _EXPERTS.search(t.name)]
    if not stored:
        return None
    whole = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return whole - sum(t.nbytes - prod(t.shape) // _BLOCK * _BLOCK_BYTES for t in stored)
