"""vLLM, for folders, where its program is in PATH."""

import shutil
from pathlib import Path

from evaluation.engines.engine import PORT, Demand, Engine, shown_command, version_lines

PROGRAM = "vllm"


def program() -> Path | None:
    found = shutil.which(PROGRAM)
    return None if found is None else Path(found)


def vllm(executable: Path, folder: Path, demand: Demand) -> Engine:
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", PORT, "--served-model-name", folder.name]
    arguments += ["--max-num-seqs", str(demand.concurrency), "--seed", "0"]
    # As with llama.cpp: a prompt whose head is cached is computed in other pieces.
    arguments += ["--no-enable-prefix-caching"]
    return Engine(
        name="vLLM",
        build=(version_lines(executable) or [""])[-1],
        command=(str(executable), *arguments),
        shown=shown_command(PROGRAM, folder, *arguments),
        model=folder.name,
        environment={"VLLM_NO_USAGE_STATS": "1"},
    )
