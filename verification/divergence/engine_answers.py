"""What llama.cpp itself says of a GGUF file, beside what divergence measures of it.

Divergence gives a file's weights to transformers' forward. What llama.cpp makes of the file's keys (rotary positions,
norms, gates, windows) is not in that. So its server, where it is at hand, is asked at a few positions of the held-out
text, and the log-probability of the token that follows is compared with the one that was measured.
"""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch

from sixfold.llama_cpp import SERVER, packaged_server, server
from verification.finding import Finding
from verification.llama_cpp.completion import EngineFailed, version

LARGEST = 1 << 30
"""Bytes of a file that a server reads in seconds."""

_POSITIONS = 8
_FIRST, _LAST = 32, 96
_LOSS = 2.0
"""Positions where the token that follows is about so unlikely, in nats: it is among the candidates that the server
lists, and not so certain that any model would say it."""

_CANDIDATES = 100
_SECONDS = 30.0

TOLERANCE = 0.25
"""Largest median difference in nats. tests/engines/llama_programs/test_engine_answers.py prints those of sound files,
and of one with another base of rotary positions."""


@dataclass(frozen=True)
class EngineAnswers:
    """engine: with its build. positions: that it was asked at. difference: in nats, the median of absolute values, as
    experts that are chosen otherwise by the last bit move single positions; None where it did not answer, and failed
    says why."""

    engine: str
    positions: int
    difference: float | None
    failed: str = ""

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.engine} was not heard: {self.failed or 'it listed no candidates'}"
        apart = f"{self.difference:.3g} nats from what was measured, the median of {self.positions} positions"
        return f"{self.engine} answers {apart} ({TOLERANCE:g} allowed)"

    @property
    def findings(self) -> Iterator[Finding]:
        if self.difference is not None and not self.difference <= TOLERANCE:
            yield Finding(
                "engine.answers",
                "llama.cpp",
                f"its log-probabilities are {self.difference:.3g} nats from those measured, {TOLERANCE:g} are allowed",
                "what was measured is not what it answers",
                "compare the file's keys with those that llama.cpp's converter writes, or try its newest release",
                "warning",
            )


def answers_of_engine(gguf: Path, windows: Sequence[torch.Tensor], losses: torch.Tensor) -> EngineAnswers | None:
    """None where there is no server, or the file is too large to be loaded for this alone.

    windows: int64 [length] each. losses: float32 [sum of length - 1], in nats, of each token behind a window's first
    one, as measured of the file.
    """
    executable = server()
    if executable is None or gguf.stat().st_size > LARGEST:
        return None
    asked = _positions(windows, losses)
    try:
        engine = version(executable)
        with _server(executable, gguf) as client:
            said = [_log_probability(client, window[: place + 1], int(window[place + 1])) for window, place, _ in asked]
    except (EngineFailed, OSError, httpx.HTTPError, LookupError, TypeError, ValueError) as error:
        return EngineAnswers(SERVER, 0, None, f"{type(error).__name__}: {error}".splitlines()[0][:200])
    apart = [abs(log + loss) for log, (_, _, loss) in zip(said, asked, strict=True) if log is not None]
    return EngineAnswers(engine, len(apart), round(median(apart), 4) if apart else None)


def _positions(windows: Sequence[torch.Tensor], losses: torch.Tensor) -> list[tuple[torch.Tensor, int, float]]:
    """(window, place of the last token that is given, loss of the one that follows), of windows spread over all."""
    parts = losses.split([len(window) - 1 for window in windows])
    found = []
    for number in range(0, len(windows), max(1, len(windows) // _POSITIONS)):
        some = parts[number][_FIRST:_LAST]
        if len(some):
            place = int((some - _LOSS).abs().argmin())
            found.append((windows[number], _FIRST + place, float(some[place])))
    return found[:_POSITIONS]


@contextmanager
def _server(executable: Path, gguf: Path) -> Iterator[httpx.Client]:
    """What asks it. Raises EngineFailed where it ends or does not come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [executable, "--model", gguf, "--host", "127.0.0.1", "--port", port]
    command += ["--ctx-size", 2 * _LAST, "--parallel", 1, "--threads", 1, "--no-warmup"]
    if executable == packaged_server():
        command += ["--fit", "off"]  # this build crashes where it asks how much memory there is
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*map(str, command)], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        ends = time.monotonic() + _SECONDS
        with httpx.Client(base_url=url, timeout=_SECONDS, trust_env=False) as client:
            while not _is_up(client):
                if process.poll() is not None:
                    raise EngineFailed(f"it ended with exit code {process.returncode}")
                if time.monotonic() > ends:
                    raise EngineFailed(f"it did not come up within {_SECONDS:g} s")
                time.sleep(0.05)
            yield client
    finally:
        process.kill()
        process.wait()


def _is_up(client: httpx.Client) -> bool:
    with suppress(httpx.HTTPError):
        return client.get("/health", timeout=5).status_code == 200
    return False


def _log_probability(client: httpx.Client, prompt: torch.Tensor, token: int) -> float | None:
    """Of the token behind the prompt; that of the least likely candidate where it is not among those listed. None where
    the server's own choice is a part of a character, of which it tells nothing."""
    asked = {"prompt": prompt.tolist(), "n_predict": 1, "n_probs": _CANDIDATES, "temperature": 0, "cache_prompt": False}
    answer = client.post("/completion", json=asked)
    answer.raise_for_status()
    chosen: list[dict[str, Any]] = answer.json().get("completion_probabilities") or []
    if not chosen:
        return None
    by_token = {one["id"]: float(one["logprob"]) for one in chosen[0]["top_logprobs"]}
    return by_token.get(token, min(by_token.values()))
