"""BF16 matrix products at full speed on CPUs without BF16 arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """While open, BF16 Linears run at full speed on CPUs without BF16 arithmetic.

    There torch multiplies BF16 several times slower than float32. Products of BF16 values are exact in float32 and
    sums are float32 either way, so computing in float32 and rounding the result once is the same operation.
    """
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _Float32Products()
    return nullcontext()


class _Float32Products(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and args[0].dtype is torch.bfloat16:
            return _linear_in_float32(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear_in_float32(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return functional.linear(input.float(), weight.float(), None if bias is None else bias.float()).bfloat16()
