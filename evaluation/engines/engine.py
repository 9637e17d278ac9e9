"""What serves an artifact: a program with an OpenAI-compatible endpoint, not started yet."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sixfold.errors import SixfoldError

PORT = "{port}"
"""In a command, in place of the port that it gets."""


_TO_SAY = 300.0
"""Seconds: vLLM imports PyTorch before it says its version."""


@dataclass(frozen=True)
class Demand:
    """concurrency: requests at a time. max_tokens: of one answer, the prompt not counted."""

    concurrency: int
    max_tokens: int

    @property
    def context(self) -> int:
        """Tokens that one request may take: the prompts here are of less than half of this room."""
        return self.max_tokens + 2048


@dataclass(frozen=True)
class Engine:
    """name, build: for people. command: the program and its arguments, with PORT. shown: the same without what names
    this machine. model: the name that requests carry. health: path that answers 200 once requests are taken. extra:
    fields of each request. environment: variables beside ours."""

    name: str
    build: str
    command: tuple[str, ...]
    shown: str
    model: str
    health: str = "/health"
    extra: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def shown_command(program: str, artifact: Path, *arguments: str) -> str:
    """As a reader would type it beside the artifact."""
    words = [program, *(artifact.name if word == str(artifact) else word for word in arguments)]
    return " ".join(word for word in words if word != PORT and word != "--port")


def version_lines(executable: Path) -> list[str]:
    """What a program says to --version. Raises SixfoldError where it does not run."""
    command = [str(executable), "--version"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_TO_SAY, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SixfoldError(f"{executable} does not run ({error})", "install it again") from error
    return (done.stderr + done.stdout).strip().splitlines()
