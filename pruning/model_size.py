"""How large a mixture-of-experts model is: bytes on disk, parameters, and parameters that are active per token."""

from dataclasses import dataclass
from math import prod

from pruning.anatomy import Anatomy
from sixfold.model.source import Source


@dataclass(frozen=True)
class ModelSize:
    """bytes: of all weights as they are stored or, where stored quantized, in BF16. parameters: every element of a
    floating-point tensor. active: the same, with top-k in place of all routed experts."""

    bytes: int
    parameters: int
    active: int


def model_size(source: Source, anatomy: Anatomy) -> ModelSize:
    stored = source.checkpoint.as_stored.tensors
    tensors = [tensor for tensor in stored.values() if tensor.dtype in ("BF16", "F16", "F32")]
    counts = {tensor.name: prod(tensor.shape) for tensor in tensors}
    experts = sum(
        count
        for name, count in counts.items()
        if (found := anatomy.tensors.get(name)) is not None
        and (found.expert is not None or len(stored[name].shape) == 3)
    )
    total = sum(counts.values())
    idle = experts * (anatomy.experts - anatomy.top_k) // anatomy.experts
    return ModelSize(sum(t.nbytes for t in stored.values()), total, total - idle)
