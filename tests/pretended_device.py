"""A GPU that is not there: tensors that say they are on "cuda", are computed on the CPU, and refuse what a GPU refuses.

While `pretended()` is open, tensors made on or moved to "cuda" are of this kind. An operation on one of them and a
tensor of the CPU raises RuntimeError, as PyTorch's own do, but for scalars and indices; so does reading its memory.
`torch.tensor(..., device="cuda")` is what it cannot do: it raises NotImplementedError.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_CPU, _CUDA = torch.device("cpu"), torch.device("cuda:0")
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}


class Pretended(torch.Tensor):
    """held: its values, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Pretended":
        made: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=torch.device("meta")
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Attention is computed as one: its parts make masks where this only says to be."""
        if func is functional.scaled_dot_product_attention:
            return _computed(func, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Pretended) for x in tensors)
    asked = kwargs.get("device")
    if there and func not in _MOVES:
        judged = [args[0], *args[2:]] if func in _INDEXED else tensors
        for x in judged:
            if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) and x.dim():
                raise RuntimeError(f"{func}: expected all tensors to be on the same device, cuda:0 and cpu")
    inner_args, inner_kwargs = tree_map(lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs))
    inner_kwargs.pop("pin_memory", None)  # which needs a GPU's driver
    if func is torch.ops.aten.histc.default:  # of integers as well, on a GPU
        inner_args = inner_args[0].float(), *inner_args[1:]
    if asked is not None:
        inner_kwargs["device"] = _CPU
        there = torch.device(asked).type == "cuda"
    if func is torch.ops.aten.copy_.default:
        func(*inner_args, **inner_kwargs)
        return args[0]
    found = func(*inner_args, **inner_kwargs)
    if not there:
        return found
    before = {id(x.held): x for x in tensors if isinstance(x, Pretended)}  # what is written in place stays itself

    def placed(x: Any) -> Any:
        return before.get(id(x), x) if not isinstance(x, torch.Tensor) or id(x) in before else Pretended(x)

    return tree_map(placed, found)


def _done(pool: ThreadPoolExecutor, work: Callable[..., Any], *given: Any, **named: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(work(*given, **named))
    except BaseException as error:
        future.set_exception(error)
    return future


class _Arrived:
    """An event: what was given to this GPU is done at once."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def pretended() -> Iterator[torch.device]:
    # Modes are of one thread.
    by_itself = patch.multiple(ThreadPoolExecutor, map=lambda self, *work: map(*work), submit=_done)
    hopper = patch("torch.cuda.get_device_capability", lambda device=None: (9, 0))
    events = patch("torch.cuda.Event", _Arrived)
    sized = patch("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=10**9))
    with (
        patch("torch.cuda._lazy_init"),
        patch("torch.cuda.empty_cache"),
        events,
        sized,
        hopper,
        by_itself,
        _Everywhere(),
    ):
        yield _CUDA
