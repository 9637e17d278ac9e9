"""Exporters by the name that recipes use: each module beside this one that has an object EXPORTER is one.

A third party's is named by its module: `exporter: mypackage.myformat`.
"""

from functools import cache
from importlib import import_module
from pathlib import Path

from exporters.protocol import Exporter, ExternalExporter
from sixfold.errors import UsageError


@cache
def exporter_names() -> tuple[str, ...]:
    """Found in the modules' text: to import them all would take seconds."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(path.stem for path in modules if "\nEXPORTER = " in path.read_text(encoding="utf-8"))


def exporter_named(name: str) -> Exporter | ExternalExporter:
    """The object called EXPORTER in the exporter's module; imported on first use, since some are heavy.

    Raises UsageError where there is none.
    """
    if name not in exporter_names() and not all(part.isidentifier() for part in f"{name}.x".split(".")):
        raise UsageError(f"{name!r} is no name of an exporter or module", f"use one of {', '.join(exporter_names())}")
    if name not in exporter_names() and "." not in name:
        raise UsageError(
            f"there is no exporter {name!r}", f"use one of {', '.join(exporter_names())}, or a module's name"
        )
    module = name if "." in name else f"exporters.{name}"
    try:
        found: Exporter | ExternalExporter = import_module(module).EXPORTER
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise UsageError(f"exporter {name!r} cannot be imported ({error})", "install its package") from error
    except AttributeError as error:
        raise UsageError(f"the module {module!r} has no object EXPORTER", "see exporters/protocol.py") from error
    return found
