"""What serves an artifact: a program with an OpenAI-compatible endpoint, not started yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PORT = "{port}"
"""In a command, in place of the port that it gets."""


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
    fields of each request. batches: whether requests that run side by side may change each other's answers."""

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
