"""What is asked of a model, and what it answered: plain data, as the records keep it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TRUNCATED = "length"
"""finish_reason of an answer that was cut off at the cap."""


@dataclass(frozen=True)
class Question:
    """task_id: of a benchmark's problem. sample: which of its answers, from 0. messages: of a conversation, () where
    `prompt` is to be gone on with as it stands. stop: texts that end a completion."""

    task_id: str
    sample: int
    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str = ""
    stop: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.sample


@dataclass(frozen=True)
class Sampling:
    """max_tokens: the cap on an answer, thinking included. temperature 0 takes the most likely token at each step. The
    sample n of a problem has the seed `seed` + n."""

    max_tokens: int
    temperature: float
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """thinking: what a model wrote before its answer, as far as it can be told apart. finish: finish_reason. tokens:
    None where the endpoint does not count them. seconds: from the request to the whole answer. tries: requests that it
    took. cost: as the endpoint states it. timings: of llama.cpp's server, or {}."""

    task_id: str
    sample: int
    text: str
    thinking: str
    finish: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    tries: int = 1
    cost: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.sample

    @property
    def truncated(self) -> bool:
        return self.finish == TRUNCATED

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    def said(self) -> dict[str, Any]:
        """What the model did, without how long it took."""
        kept = ("task_id", "sample", "text", "thinking", "finish", "prompt_tokens", "completion_tokens")
        return {name: getattr(self, name) for name in kept}


def without_thinking(text: str) -> tuple[str, str]:
    """(answer, thinking) of a text that holds both, between <think> and </think>.

    A template may have written the opening tag; and where the closing one is missing, the answer was never begun.
    """
    head, closed, tail = text.partition("</think>")
    if closed:
        return tail.lstrip("\n"), head.strip().removeprefix("<think>").strip()
    if text.lstrip().startswith("<think>"):
        return "", text.strip().removeprefix("<think>").strip()
    return text, ""
