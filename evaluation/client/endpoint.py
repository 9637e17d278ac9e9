"""One question to an OpenAI-compatible endpoint: chat and completions, as OpenAI's API reference has them.

An answer is believed only if it says why it ended: scores depend on which answers were cut off.
"""

import email.utils
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from evaluation.client.asking import Answer, Question, Sampling, without_thinking
from evaluation.client.retry import Passing
from sixfold.errors import SixfoldError

_PASSES = {408, 409, 425, 429}
"""Statuses below 500 that do not speak of the request itself."""
_LARGEST = 64 << 20
"""Bytes of one answer."""
_CONNECT = 30.0


@dataclass(frozen=True)
class Endpoint:
    """url: up to and with /v1. model: the name that requests carry. key: "" where none is asked for. seconds: that one
    answer may take. extra: fields of the engine's own in each request."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    seconds: float = 600.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def client(self, connections: int) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=connections)
        # No proxy of the environment: a proxy for the world does not reach a server on this machine.
        trust = not self.url.startswith(("http://127.", "http://localhost", "http://[::1]"))
        timeout = httpx.Timeout(self.seconds, connect=_CONNECT)
        return httpx.Client(headers=headers, limits=limits, timeout=timeout, trust_env=trust)


def ask(client: httpx.Client, endpoint: Endpoint, question: Question, sampling: Sampling) -> Answer:
    """Raises Passing where another try may help, and SixfoldError where it cannot."""
    started = time.monotonic()
    path = "chat/completions" if question.messages else "completions"
    found = _post(client, endpoint, path, _request(endpoint, question, sampling))
    return _answer(found, question, time.monotonic() - started)


def first_model(endpoint: Endpoint) -> str:
    """The name of the model that an endpoint serves. Raises SixfoldError where it does not say, or names several."""
    remedy = "check the address (it ends in /v1), or name the model with --model"
    try:
        with endpoint.client(1) as client:
            response = client.get(f"{endpoint.url}/models", timeout=_CONNECT)
            response.raise_for_status()
            names = [str(entry["id"]) for entry in response.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SixfoldError(f"{endpoint.url} does not say which models it serves ({reason})", remedy) from error
    if len(names) != 1:
        raise SixfoldError(f"{endpoint.url} serves {len(names)} models", "name one with --model")
    return names[0]


def _request(endpoint: Endpoint, question: Question, sampling: Sampling) -> dict[str, Any]:
    asked: dict[str, Any] = (
        {"messages": [dict(message) for message in question.messages]}
        if question.messages
        else {"prompt": question.prompt}
    )
    stop = {"stop": list(question.stop)} if question.stop else {}
    return {
        "model": endpoint.model,
        **asked,
        **stop,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed + question.sample,
        **endpoint.extra,
    }


def _post(client: httpx.Client, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    url = f"{endpoint.url}/{path}"
    # httpx bounds the wait for the next bytes: a server that sends one now and then would never be given up.
    deadline = time.monotonic() + endpoint.seconds
    try:
        with client.stream("POST", url, json=body) as response:
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if time.monotonic() > deadline:
                    raise Passing(f"{url} did not finish its answer within {endpoint.seconds:g} s")
                if len(data) > _LARGEST:
                    raise Passing(f"{url} sent more than {_LARGEST >> 20} MiB for one answer")
    except httpx.TimeoutException as error:
        raise Passing(f"{url} did not answer within {endpoint.seconds:g} s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SixfoldError(f"{url} is no address ({error})", "give it as http://host:port/v1") from error
    except httpx.HTTPError as error:
        raise Passing(f"{url} dropped the connection or refused it ({_named(error)})") from error
    return _body(url, response, bytes(data))


def _body(url: str, response: httpx.Response, data: bytes) -> dict[str, Any]:
    status = response.status_code
    if status in _PASSES or status >= 500:
        raise Passing(f"{url} answered with status {status}{_reason(data)}", _asked_to_wait(response))
    if status != 200:
        raise SixfoldError(
            f"{url} refuses a request with status {status}{_reason(data)}",
            "see whether it has this way of asking and a context as long as prompt and cap together, and whether the"
            " key holds",
        )
    found = _json(data)
    if not isinstance(found, dict):
        raise Passing(f"{url} answered with something that is not JSON")
    return found


def _answer(found: Mapping[str, Any], question: Question, seconds: float) -> Answer:
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Passing("an answer came without choices")
    choice = choices[0]
    finish = choice.get("finish_reason")
    if not isinstance(finish, str):
        raise Passing("an answer does not say why it ended (finish_reason)")
    text, thinking = _said(choice) if question.messages else (choice.get("text"), "")
    if not isinstance(text, str):
        raise Passing("an answer came without text")
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    timings = found.get("timings")
    return Answer(
        task_id=question.task_id,
        sample=question.sample,
        text=text,
        thinking=thinking,
        finish=finish,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        seconds=round(seconds, 3),
        cost=_number(usage.get("cost")),
        timings={k: v for k, v in timings.items() if _number(v) is not None} if isinstance(timings, dict) else {},
    )


def _said(choice: Mapping[str, Any]) -> tuple[Any, str]:
    message = choice.get("message")
    if not isinstance(message, dict):
        return None, ""
    content = message.get("content")
    content = "" if content is None else content  # all of it was thinking, or a call of a tool
    stated = [message.get(name) for name in ("reasoning_content", "reasoning")]
    if not isinstance(content, str):
        return None, ""
    text, within = without_thinking(content)
    return text, next((thinking for thinking in stated if isinstance(thinking, str) and thinking), within)


def _asked_to_wait(response: httpx.Response) -> float | None:
    """Retry-After, in seconds or as a date (RFC 9110, 10.2.3)."""
    stated = response.headers.get("retry-after", "").strip()
    with suppress(ValueError):
        return max(0.0, float(stated))
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(stated) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _reason(data: bytes) -> str:
    """What the server says of it, in OpenAI's form or in any other: the first words of it."""
    found = _json(data)
    error = found.get("error", found) if isinstance(found, dict) else data.decode(errors="replace")
    said = error.get("message", "") if isinstance(error, dict) else error
    words = " ".join(str(said).split()).rstrip(".")[:200]
    return f" ({words})" if words else ""


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _named(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e15 else None
