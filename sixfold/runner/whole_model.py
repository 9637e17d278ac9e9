"""transformers' model with all its weights, for tools that need it in memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from sixfold.checkpoint.expert_slice import stacked
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import meta_model
from sixfold.model.source import Source
from sixfold.runner.available_memory import available_memory
from sixfold.sizes import size

_HOST_ROOM = 2.0
"""Memory as a multiple of the weights: while loading, the experts are there both one by one and stacked."""


def check_host_memory(source: Source) -> None:
    """Raises SixfoldError if the model does not fit into this machine's memory."""
    tensors = source.checkpoint.tensors.values()
    needed = int(_HOST_ROOM * sum(tensor.nbytes for tensor in tensors))
    available = available_memory()
    if available is not None and needed > available:
        raise SixfoldError(
            f"{source.checkpoint.name} as a whole needs {size(needed)} of memory,"
            f" of which this machine has {size(available)} available",
            "use a larger machine, or a recipe with a native exporter, which never holds the whole model",
        )


def load_model(source: Source, *, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' causal language model with the checkpoint's weights, whole, in `dtype` and in eval mode.

    Weights come through Checkpoint.read, so quantized sources arrive dequantized, and pass through transformers' own
    weight conversions. Correction biases stay float32 also where transformers would round them to `dtype`: a rounded
    bias routes other tokens. Raises SixfoldError where the model does not fit into memory.
    """
    check_host_memory(source)
    checkpoint, architecture = source.checkpoint, source.architecture
    empty: Any = meta_model(checkpoint)
    base: Any = type(empty)
    in_float32 = {name.rsplit(".", 1)[-1] for name in architecture.correction_biases}
    strict = sorted(in_float32 | set(base._keep_in_fp32_modules_strict or ()))
    # Of transformers' module, or it would take the class for another's and not rename its weights.
    own = {"_keep_in_fp32_modules_strict": strict, "__module__": base.__module__}
    cls: Any = type(base.__name__, (base,), own)
    left_out = {*architecture.not_run, *(name for name, _ in architecture.tied_copies)}
    names = [name for name in checkpoint.tensors if name not in left_out]

    def read(name: str) -> torch.Tensor:
        shape = checkpoint.tensors[name].shape
        return checkpoint.read(TensorSlice(name, 0, shape[0] if shape else 1))

    with ThreadPoolExecutor(4) as threads:
        weights = dict(zip(names, threads.map(read, names), strict=True))
    weights = stacked(checkpoint, weights)
    with _without_progress_bar():
        model = cls.from_pretrained(None, config=empty.config, state_dict=weights, dtype=dtype)
    return model.eval().to(device)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
