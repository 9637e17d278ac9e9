"""An engine from its start to its end: on a free port of the loopback interface, waited for, and always stopped."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from evaluation.engines.engine import PORT, Engine
from sixfold.errors import SixfoldError
from sixfold.progress import Progress

_LONGEST = 3600.0
"""Seconds: a model of hundreds of gigabytes is read from a network disk."""
_PAUSE = 0.2
_TO_STOP = 10.0
_LAST_LINES = 4096


@dataclass(frozen=True)
class Running:
    """url: of the endpoint. log: what the engine has written."""

    engine: Engine
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def gone(self) -> str:
        """Why it does not answer any more, "" while it runs."""
        code = self.process.poll()
        return "" if code is None else f"{self.engine.name} ended with exit code {code} ({last_words(self.log)})"

    def peak_memory(self) -> int | None:
        """Bytes of the main process at its peak, files mapped into memory included; None where the system does not
        say."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


@contextmanager
def started(engine: Engine, log: Path, progress: Progress, longest: float = _LONGEST) -> Iterator[Running]:
    """log: file that gets what the engine writes. Raises SixfoldError where it ends or does not come up in `longest`
    seconds. However the context is left, the engine and its children are ended; killed outright, Linux ends it with
    us."""
    port = _free_port()
    command = [word.replace(PORT, str(port)) for word in engine.command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        try:
            process = subprocess.Popen(
                _with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env={**os.environ, **engine.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise SixfoldError(f"{engine.name} cannot be started ({error})", "check its program") from error
    running = Running(engine, f"http://127.0.0.1:{port}/v1", process, log)
    try:
        with progress(f"starting {engine.name}", 1, "engine") as advance:
            _wait_for_health(running, port, longest)
            advance(1)
        yield running
    finally:
        _stop(process)


def last_words(log: Path) -> str:
    """The last line that says an error, else the last one, of an engine's log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_LINES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it wrote nothing"])[-1][:300]


def _wait_for_health(running: Running, port: int, longest: float) -> None:
    deadline = time.monotonic() + longest
    url = f"http://127.0.0.1:{port}{running.engine.health}"
    remedy = f"read {running.log}, or serve it elsewhere and give --endpoint"
    while time.monotonic() < deadline:
        ended = running.gone()
        if ended:
            raise SixfoldError(ended, remedy)
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(_PAUSE)
    raise SixfoldError(f"{running.engine.name} did not come up within {longest:g} s", remedy)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _with_us(command: list[str]) -> list[str]:
    """util-linux's setpriv has the kernel end the engine where we are killed without a word."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Asked first, then killed, with all that it has started."""
    for way, patience in ((signal.SIGTERM, _TO_STOP), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, way)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
