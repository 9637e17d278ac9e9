"""llama.cpp's own quantizers, called in the prebuilt library of the `libggml-python` wheel; nothing is ever compiled.

Tensors on a GPU stay there, and get the same bytes (see exporters.ggml.cuda.encode).

Rows are independent of one another, so a tensor may be quantized in blocks of rows, by any number of threads, with the
same bytes as in one piece. ctypes releases the interpreter lock for the length of every call.
"""

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from sixfold.errors import SixfoldError

BLOCK_BYTES = 8 * 1024 * 1024
"""Float32 bytes that are converted and quantized at a time: well inside what one thread may hold besides its tensor."""

PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.I32: torch.int32,
}
"""Types that are casts, not quantization."""


def type_named(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name]


def block_size(qtype: GGMLQuantizationType) -> int:
    """How many weights of a row share one block; the length of a row must be a multiple."""
    return GGML_QUANT_SIZES[qtype][0]


def row_bytes(qtype: GGMLQuantizationType, columns: int) -> int:
    block, size = GGML_QUANT_SIZES[qtype]
    return columns // block * size


@cache
def library() -> ctypes.CDLL:
    """libggml-base of the installed wheel. Raises SixfoldError where there is none for this platform."""
    try:
        import libggml
    except ImportError:
        raise SixfoldError(
            "the package libggml-python is not installed", "run `pip install -e .` in the checkout"
        ) from None
    ending = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    root = Path(libggml.__path__[0])
    found = sorted(root.glob(f"lib*/libggml-base.{ending}")) + sorted(root.glob(f"**/*ggml-base.{ending}"))
    if not found:
        raise SixfoldError(f"no ggml-base library for {sys.platform} in {root}", "reinstall libggml-python")
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    ggml.ggml_validate_row_data.restype = ctypes.c_bool
    ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return ggml


def requires_importance(qtype: GGMLQuantizationType) -> bool:
    """Whether ggml refuses (by ending the process) to quantize to this type without an importance matrix."""
    return bool(library().ggml_quantize_requires_imatrix(int(qtype)))


@cache
def encodes_on_gpu(qtype: GGMLQuantizationType) -> bool:
    """Whether this machine has a GPU, Triton, and a kernel for the type."""
    if not torch.cuda.is_available():
        return False
    try:
        from exporters.ggml.cuda.encode import SEARCHES
    except ImportError:
        return False
    return qtype in SEARCHES


def quantize(
    weight: torch.Tensor, qtype: GGMLQuantizationType, importance: torch.Tensor | None = None, *, name: str = "a tensor"
) -> torch.Tensor:
    """Quantize the rows of `weight` [..., C] (BF16, F16 or F32) as llama-quantize does from a GGUF in that dtype.

    importance: float32 [C], the mean square of each input channel, shared by all rows; None for unweighted rounding.
    Returns uint8 [rows * row_bytes(qtype, C)], on the device of `weight`. Raises SixfoldError, with `name`, where the
    type cannot hold a weight, and on a GPU without Triton.
    """
    columns = weight.shape[-1]
    rows = weight.reshape(-1, columns)
    if qtype in PLAIN:
        cast = rows.to(PLAIN[qtype]).contiguous()
        if qtype == GGMLQuantizationType.F16 and not bool(torch.isfinite(cast).all()):
            raise SixfoldError(f"{name} has weights beyond the range of F16", "choose BF16 or a quantized type")
        return cast.flatten().view(torch.uint8)
    if columns % block_size(qtype):
        raise ValueError(f"rows of {columns} can not be held in {qtype.name}")
    if importance is not None:
        importance = importance.to(rows.device, torch.float32).contiguous()
        if importance.shape != (columns,):
            raise ValueError(f"importance of shape {tuple(importance.shape)} for rows of {columns}")
    elif requires_importance(qtype):
        raise ValueError(f"{qtype.name} needs an importance matrix")
    out, sound = (_on_gpu if rows.is_cuda else _on_cpu)(rows, qtype, importance)
    if not sound:
        raise SixfoldError(f"{name} has weights that are infinite or not a number", "download or prune the model again")
    return out


def _on_cpu(
    rows: torch.Tensor, qtype: GGMLQuantizationType, importance: torch.Tensor | None
) -> tuple[torch.Tensor, bool]:
    """The bytes of rows [R, C], and whether all weights and scales are finite."""
    columns = rows.shape[1]
    pitch = row_bytes(qtype, columns)
    out = torch.empty(rows.shape[0] * pitch, dtype=torch.uint8)
    ggml = library()
    sound = True
    for start, block in _blocks(rows):
        sound = sound and bool(torch.isfinite(block).all())  # some quantizers pass over a NaN
        written = ggml.ggml_quantize_chunk(
            int(qtype),
            block.data_ptr(),
            out.data_ptr() + start * pitch,
            0,
            block.shape[0],
            columns,
            None if importance is None else importance.data_ptr(),
        )
        if written != block.shape[0] * pitch:
            raise RuntimeError(f"ggml wrote {written} bytes for {block.shape[0]} rows of {qtype.name}")
    return out, sound and bool(ggml.ggml_validate_row_data(int(qtype), out.data_ptr(), out.numel()))


def _on_gpu(
    rows: torch.Tensor, qtype: GGMLQuantizationType, importance: torch.Tensor | None
) -> tuple[torch.Tensor, bool]:
    """The same. Types without kernels (ggml's 3-bit grids and below) go through the host."""
    try:
        from exporters.ggml.cuda.encode import SEARCHES, encode
    except ImportError:
        raise SixfoldError(
            "quantizing to GGUF types on a GPU needs Triton, which is not installed",
            "install a CUDA build of PyTorch, or export on the CPU",
        ) from None
    if qtype in SEARCHES:
        out, sound = encode(rows, qtype, importance)
        return out, bool(sound)
    out, held = _on_cpu(rows.cpu(), qtype, None if importance is None else importance.cpu())
    return out.to(rows.device), held


def _blocks(rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, float32 rows) in blocks of at most BLOCK_BYTES; one row at least."""
    step = max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    for start in range(0, rows.shape[0], step):
        yield start, rows[start : start + step].to(torch.float32).contiguous()
