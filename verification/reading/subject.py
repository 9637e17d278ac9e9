"""What every check of a folder looks at, and how the folder's tensors belong to the model's Linears."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from verification.reading.declared import Declared, Scheme
from verification.reading.folder import Folder, modules_of
from verification.reading.required_tensors import Blueprint
from verification.reading.stored_parts import QUANTIZED_PARTS


@dataclass(frozen=True)
class Subject:
    """blueprint: None where config.json describes no model that transformers knows. source: None without --against."""

    folder: Folder
    declared: Declared
    blueprint: Blueprint | None
    source: Source | None

    @cached_property
    def modules(self) -> Mapping[str, set[str]]:
        """Stored tensor names, grouped by module."""
        return modules_of(iter(self.folder.tensors))

    def is_quantized(self, module: str) -> bool:
        """Whether the folder holds this module's weight in another form than plain numbers."""
        suffixes = self.modules.get(module, set())
        if suffixes & QUANTIZED_PARTS:
            return True
        weight = self.folder.tensors.get(f"{module}.weight")
        return weight is not None and weight.dtype in ("F8_E4M3", "U8", "I8")

    def quantized(self) -> Iterator[tuple[Linear, Scheme]]:
        """Linears that are stored quantized, each with the scheme that config.json declares for it."""
        if self.blueprint is None:
            return
        for linear in self.blueprint.architecture.linears:
            scheme = self.declared.scheme_of(linear.name)
            if scheme is not None and self.is_quantized(linear.name):
                yield linear, scheme
