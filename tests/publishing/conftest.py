"""A Hub of one's own, the only one that huggingface_hub knows, and the command line that speaks to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from cli.commands import publish as publish_command
from cli.main import run
from publishing.hub import retries
from tests.publishing.fake_hub.server import serve
from tests.publishing.fake_hub.state import Account, Fault, Hub
from tests.publishing.plain_cards import no_figures, plain_card

_REAL_CARD, _REAL_FIGURES = publish_command._card, publish_command._figures
TOKEN = "hf_SecretSecretSecretSecret1234"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """LFS in one part; nothing waits between tries."""
    with serve(tmp_path / "hub", tokens={TOKEN: Account()}) as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, hub.endpoint)
        )
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=lambda seconds: None))
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


@dataclass(frozen=True)
class Printed:
    code: int
    out: str
    err: str


Publish = Callable[..., Printed]


@pytest.fixture
def publish(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    """`sixfold publish` with these arguments, to the organization lab, of what is in tmp_path/out; with plain cards."""
    monkeypatch.setattr(publish_command, "_card", plain_card)
    monkeypatch.setattr(publish_command, "_figures", no_figures)

    def call(*arguments: str, ask: bool = False, org: str = "lab") -> Printed:
        words = ["publish", *arguments, "--out", str(tmp_path / "out"), *(["--org", org] if org else [])]
        code = run(words if ask else [*words, "--yes"])
        captured = capfd.readouterr()
        assert TOKEN not in captured.out + captured.err
        return Printed(code, captured.out, captured.err)

    return call


@pytest.fixture
def real_cards(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """`publish` with the cards that a user gets."""
    monkeypatch.setattr(publish_command, "_card", _REAL_CARD)
    monkeypatch.setattr(publish_command, "_figures", _REAL_FIGURES)


@dataclass(frozen=True)
class Killed:
    """A real process that publishes, ended by SIGKILL: `at` while the Hub has the request that the fault holds back,
    `when` something is so."""

    hub: Hub
    out: Path
    home: Path
    xet: bool = False

    def at(self, fault: Fault) -> None:
        assert fault.hold is not None
        self.hub.break_with(fault)
        self.when(lambda: fault.reached.is_set())
        fault.hold.set()

    def when(self, reached: Callable[[], bool]) -> None:
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
        }
        words = ["publish", "--org", "lab", "--out", str(self.out), "--yes"]
        process = subprocess.Popen([sys.executable, "-m", "tests.publishing.plain_cards", *words], env=environment)
        deadline = time.monotonic() + 60
        try:
            while not reached() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert reached(), "the process never came so far"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def killed(hub: Hub, tmp_path: Path) -> Killed:
    return Killed(hub, tmp_path / "out", tmp_path / "home")
