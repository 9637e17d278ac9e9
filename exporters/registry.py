"""Exporters by the name that recipes use. A third party's is named by its module: `exporter: mypackage.myformat`."""

from importlib import import_module

from exporters.protocol import Exporter, ExternalExporter
from sixfold.errors import UsageError

_MODULES = {
    "awq": "exporters.awq",
    "bf16": "exporters.bf16",
    "fp8": "exporters.fp8",
    "gguf": "exporters.gguf",
    "llmcompressor": "exporters.llmcompressor",
    "nvfp4": "exporters.nvfp4",
}


def exporter_names() -> tuple[str, ...]:
    return tuple(_MODULES)


def exporter_named(name: str) -> Exporter | ExternalExporter:
    """The object called EXPORTER in the exporter's module; imported on first use, since some are heavy.

    Raises UsageError where there is none.
    """
    module = _MODULES.get(name, name if "." in name else None)
    if module is None:
        raise UsageError(f"there is no exporter {name!r}", f"use one of {', '.join(_MODULES)}, or a module's name")
    try:
        found: Exporter | ExternalExporter = import_module(module).EXPORTER
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise UsageError(f"exporter {name!r} cannot be imported ({error})", "install its package") from error
    except AttributeError as error:
        raise UsageError(f"the module {module!r} has no object EXPORTER", "see exporters/protocol.py") from error
    return found
