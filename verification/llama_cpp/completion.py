"""Text from llama.cpp itself, if its program is available: SIXFOLD_LLAMA_CPP names its folder, else PATH is searched.

llama-completion continues a prompt and ends. Builds from before it was split off (late 2025) do so as llama-cli.
"""

import subprocess
from pathlib import Path

from sixfold import llama_cpp

PROGRAMS = ("llama-completion", "llama-cli")
_SECONDS = 900
_END = " [end of text]"
_TRIES = 10
_BEHIND = "sampling time"
"""What llama.cpp logs behind the text. A thread writes both, and its last lines are lost where the program ends before
it has; with a model of some size that does not happen, and with a tiny one trying again costs nothing."""


class EngineFailed(Exception):
    """llama.cpp gave no answer; says why."""


def program() -> Path | None:
    """None where there is none."""
    found = (llama_cpp.program(name) for name in PROGRAMS)
    return next((path for path in found if path is not None), None)


def version(executable: Path) -> str:
    """Such as "llama-completion 1 (b6d3a9f)"."""
    done = _run(executable, "--version")
    line = next((line for line in done.stderr.splitlines() if line.startswith("version:")), "")
    return f"{executable.name} {line.removeprefix('version:').strip()}".strip()


def complete(executable: Path, gguf: Path, prompt: str, tokens: int) -> str:
    """What follows the prompt, at most `tokens` of them, the most likely one at a time. gguf: the first part of a split
    file. Raises EngineFailed."""
    greedy = ("--temp", "0", "--seed", "0", "--ctx-size", "512")
    plain = ("--no-conversation", "--no-display-prompt", "--no-escape", "--no-warmup", "--check-tensors")
    longest = ""
    for _ in range(_TRIES):
        done = _run(executable, "--model", gguf, "--prompt", prompt, "--predict", str(tokens), *greedy, *plain)
        if done.returncode:
            errors = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
            said = errors or done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise EngineFailed(said[0])
        longest = max(longest, done.stdout, key=len)
        if _BEHIND in done.stderr:
            break
    return longest.removesuffix("\n").removesuffix("\n").removesuffix(_END)


def _run(executable: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(executable), *map(str, arguments)]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineFailed(str(error)) from error
