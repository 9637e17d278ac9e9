"""The modules of AutoAWQ that define its layout, imported without the package around them, which no longer loads."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any


def _module(name: str) -> Any:
    """`name` with empty stand-ins for its parent packages, whose own code asks for an old transformers."""
    spec = find_spec("awq")
    assert spec is not None, "autoawq is missing: pip install --no-deps autoawq==0.2.9"
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for package in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        if package not in sys.modules:
            stand_in = ModuleType(package)
            stand_in.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
            stand_in.__spec__ = spec if package == "awq" else None
            sys.modules[package] = stand_in
    return import_module(name)


packing_utils = _module("awq.utils.packing_utils")
WQLinear_GEMM = _module("awq.modules.linear.gemm").WQLinear_GEMM
