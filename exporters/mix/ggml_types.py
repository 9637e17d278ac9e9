"""The types of ggml that a mix may be made of, and what weights become in each."""

from collections.abc import Mapping

import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from exporters.ggml.compensated import compensated
from exporters.ggml.kernels import PLAIN, quantize, requires_importance, row_bytes
from exporters.ggml.type_mix import fitted
from exporters.mix.estimate import Rounding

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""Where a recipe names none: those that every backend of llama.cpp runs at full speed."""
ALLOWED = (
    "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K",
    "Q6_K", "Q8_0", "F16", "BF16",
)  # fmt: skip


def fitting(types: tuple[str, ...], columns: int) -> tuple[str, ...]:
    """Those whose blocks divide rows of so many columns; for one that does not fit, what llama.cpp's presets take in
    its place; F16 where nothing does."""
    found = dict.fromkeys(fitted(Type[name], columns).qtype.name for name in types)
    return tuple(name for name in found if name != "F16" or name in types) or ("F16",)


def bits(name: str) -> float:
    """Of a weight, with its share of scales."""
    block, nbytes = GGML_QUANT_SIZES[Type[name]]
    return 8 * nbytes / block


def roundings(names: tuple[str, ...]) -> Mapping[str, Rounding]:
    return {name: _Rounding(Type[name]) for name in names}


class _Rounding:
    def __init__(self, qtype: Type) -> None:
        self._type = qtype

    @property
    def compensated(self) -> bool:
        return compensated(self._type)

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        if self._type in PLAIN:
            return rows.to(PLAIN[self._type]).float()
        columns = rows.shape[-1]
        if importance is None and requires_importance(self._type):
            importance = rows.new_ones(columns)
        packed = quantize(rows, self._type, importance)
        blocks = packed.numpy().reshape(-1, row_bytes(self._type, columns))
        return torch.from_numpy(dequantize(blocks, self._type)).reshape(rows.shape).float()
