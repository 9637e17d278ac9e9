"""Whether a model can be calibrated: run one decoder layer at a time, with all that it reads in sight.

Asked before any work, of transformers' model without memory, so that a plan promises nothing that an export refuses.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sixfold.errors import SixfoldError
from sixfold.model import dataflow
from sixfold.model.decoder import Decoder
from sixfold.model.layer_calls import Handed, record_calls

_CHUNK = 64


def why_not_layered(model: nn.Module, decoder: Decoder, experts: Collection[str], untraced: Exception | None) -> str:
    """A sentence without a full stop, "" where nothing is known against it.

    experts: modules of routed experts. untraced: what ended the trace of the model's forward, None where it went
    through.
    """
    kind = type(model).__name__
    if not decoder.layers:
        return f"{kind} has no list of its decoder layers, so they cannot be run one at a time"
    hidden = [name for name in experts if not hasattr(type(model.get_submodule(name)).forward, "__wrapped__")]
    if hidden:
        return f"{kind} runs its experts outside of transformers' interface, where what they read cannot be observed"
    if untraced is not None and not isinstance(untraced, NotImplementedError):  # that is only for want of data
        return f"transformers' own forward of {kind} does not run as config.json says ({_first_line(untraced)})"
    layers = [model.get_submodule(name) for name in decoder.layers]
    try:
        with dataflow.without_data():
            record_calls(model, layers, torch.zeros((1, 4), dtype=torch.long, device="meta"))
    except SixfoldError as error:
        return error.what
    except Exception:  # it asks for values that a model without memory does not have
        return ""
    return ""


_PRODUCTS = {getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "addmm", "baddbmm")}


def needs_float32(model: Any, decoder: Decoder) -> bool:
    """Whether the family's forward runs in no other dtype. model: with BF16 parameters."""
    return _keeps_norms_in_float32(model, decoder) or _mixes_dtypes(model, decoder)


def _keeps_norms_in_float32(model: Any, decoder: Decoder) -> bool:
    """Whether decoder layers hold norms in float32 whatever the dtype, whose outputs are float32 then."""
    strict = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    return any(
        decoder.layer_of(name + ".") is not None and strict & set(name.split("."))
        for name, module in model.named_modules()
        if dataflow.is_norm(module)
    )


def _mixes_dtypes(model: nn.Module, decoder: Decoder) -> bool:
    """Whether a layer of BF16 weights multiplies BF16 by float32, which torch refuses: gates of float32 that xLSTM's
    chunks, of as many tokens as here, are multiplied by."""
    layers = [model.get_submodule(name) for name in decoder.layers]
    kinds = {tuple(type(module) for module in layer.modules()): index for index, layer in enumerate(layers)}
    try:
        with dataflow.without_data(), torch.no_grad(), _OneDtype():
            calls = record_calls(model, layers, torch.zeros((1, _CHUNK), dtype=torch.long, device="meta"))
            for index in kinds.values():
                calls.layers[index](layers[index], calls.hidden, Handed())
    except RuntimeError as error:
        return "dtype" in str(error) or "scalar type" in str(error)
    except Exception:  # as above
        return False
    return False


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(".")


class _OneDtype(TorchDispatchMode):
    """Refuses products of two dtypes, as every device does, but not every release of torch without data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and len({factor.dtype for factor in args if isinstance(factor, torch.Tensor)}) > 1:
            raise RuntimeError(f"{func}: not of one dtype")
        return func(*args, **(kwargs or {}))
