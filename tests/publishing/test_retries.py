"""How long is waited between tries, and how an upload shows how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError

from publishing import upload_progress
from publishing.hub import retries
from publishing.hub.retries import WAITS, patiently


def refusal(status: int, **headers: str) -> HfHubHTTPError:
    request = httpx.Request("GET", "http://hub")
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    return HfHubHTTPError("", response=httpx.Response(status, headers=names, request=request))


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def untold(error: Exception, seconds: float) -> None: ...


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_pauses_grow(waited: list[float]) -> None:
    errors = [refusal(503), httpx.ReadError("gone"), ConnectionError("Xet"), RuntimeError("LFS"), refusal(408)]
    told: list[tuple[str, float]] = []
    assert patiently(failing(*errors), lambda error, s: told.append((type(error).__name__, s))) == "done"
    assert waited == [1, 2, 4, 8, 16] == [seconds for _, seconds in told]
    assert told[1] == ("ReadError", 2)


def test_the_hub_may_ask_for_longer(waited: list[float]) -> None:
    errors = [refusal(429, Retry_After="40"), refusal(429, Retry_After="100000"), refusal(429, Retry_After="soon")]
    assert patiently(failing(*errors), untold) == "done"
    assert waited == [40, 300, 4]


def test_not_for_ever(waited: list[float]) -> None:
    with pytest.raises(HfHubHTTPError):
        patiently(failing(*[refusal(500)] * 20), untold)
    assert tuple(waited) == WAITS


@pytest.mark.parametrize("error", [refusal(401), refusal(403), refusal(404), ValueError("no"), KeyError("no")])
def test_what_does_not_pass_is_not_tried_again(error: Exception, waited: list[float]) -> None:
    with pytest.raises(type(error)):
        patiently(failing(error, error), untold)
    assert not waited


def test_progress_follows_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one file is read while the other waits; at the end all bytes are accounted for, once."""
    monkeypatch.setattr(upload_progress, "_SECONDS", 0.01)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(bytes(100_000))
    seen: list[int] = []

    @contextmanager
    def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        assert (description, total, unit) == ("lab/m", 200_000, "B")
        yield seen.append

    with upload_progress.watched("lab/m", dict.fromkeys(paths, 100000), progress):
        with paths[0].open("rb", buffering=0) as file:
            file.read(50_000)
            deadline = time.monotonic() + 5
            while sum(seen) < 50_000 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sum(seen) == 50_000
    assert sum(seen) == 200_000
