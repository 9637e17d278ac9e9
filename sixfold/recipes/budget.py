"""How large a variant's weights may be: in bits a weight, in bytes, by the smallest mix, or what fits on a machine."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from sixfold.sizes import parse_size


def _bytes(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _tokens(value: Any) -> Any:
    """ "32k" is 32,768."""
    found = re.fullmatch(r"\s*(\d+)(k?)\s*", value.lower()) if isinstance(value, str) else None
    return int(found[1]) * (1024 if found[2] else 1) if found else value


Size = Annotated[
    PositiveInt,
    BeforeValidator(_bytes, json_schema_input_type=PositiveInt | Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?\w+$")]),
]
Tokens = Annotated[
    PositiveInt,
    BeforeValidator(_tokens, json_schema_input_type=PositiveInt | Annotated[str, Field(pattern=r"^\d+[kK]?$")]),
]


class Budget(BaseModel):
    """Exactly one of bits, bytes, times and fits."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    bits: Annotated[float, Field(gt=0, le=32)] | None = None
    """Bits of all weight files together for each weight of the model."""
    bytes: Size | None = None
    """Bytes of all weight files together, such as 84GB. With `fits` it is computed, not stated."""
    times: Annotated[float, Field(ge=1)] | None = None
    """Bytes as a multiple of the smallest mix: 1.05 leaves five percent for what suffers most."""
    fits: Annotated[str, Field(min_length=1)] | None = None
    """A machine of `sixfold budget --hardware`: what it has left beside the cache, buffers and reserve."""
    context: Tokens | None = None
    """With `fits`: tokens of the context that must fit too, such as 128k."""
    types: tuple[str, ...] = ()
    """Types that tensors may have; the exporter's own choice where there are none."""

    @model_validator(mode="after")
    def _one_limit(self) -> "Budget":
        if self.fits is None and self.context is not None:
            raise ValueError("has a context, which only `fits` is for")
        if self.fits is not None and (self.context is None or self.bits or self.times):
            raise ValueError("needs `context` beside `fits`, and no other limit")
        stated = [limit for limit in (self.bits, self.bytes, self.times) if limit is not None]
        if self.fits is None and len(stated) != 1:
            raise ValueError("needs one of `bits`, `bytes`, `times` and `fits`")
        return self

    @property
    def label(self) -> str:
        """Short, for names of files: "4.5bpw", "84GB", "mac-studio-96-32k"."""
        if self.fits is not None:
            context = self.context or 0
            return f"{self.fits}-{context // 1024}k" if context % 1024 == 0 else f"{self.fits}-{context}"
        if self.bits is not None:
            return f"{self.bits:g}bpw"
        if self.times is not None:
            return f"{self.times:g}x"
        size = self.bytes or 0
        for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
            if size % (unit // 100) == 0 and size >= unit:
                return f"{size / unit:g}{name}"
        return f"{size}B"
