"""Hostile answers score as failures and leave nothing behind; honest ones pass, whatever plain data they return."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evaluation.sandbox.inside.values import LONGEST, NotPlain, Opaque, line_of, value_of
from evaluation.sandbox.isolation import Isolation, isolation, unisolated
from evaluation.sandbox.judge import Verdict, judge
from sixfold.errors import SixfoldError
from tests.evaluation.sandboxes import SANDBOXES

TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n"
RIGHT = "def add(a, b):\n    return a + b\n"


@pytest.fixture(params=SANDBOXES, ids=lambda sandbox: sandbox.name)
def sandbox(request: pytest.FixtureRequest) -> Isolation:
    return request.param


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process of a judgment outlives it by more than the kernel takes to end it."""
    yield
    assert _all_ended()


def _all_ended(seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while _children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _children()


def _children() -> set[str]:
    """Python processes that run our tester or worker, whoever their parent is."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"evaluation.sandbox" in entry.read_bytes():
                found.add(entry.parent.name)
        except OSError:
            continue
    return found


def judged(program: str, sandbox: Isolation, test: str = TEST, seconds: float = 15) -> Verdict:
    return judge(program, "", test, "add", sandbox, seconds)


@pytest.mark.skipif(not SANDBOXES and "CI" not in os.environ, reason="no user namespaces, as in many containers")
def test_this_machine_isolates() -> None:
    """Where it does not, no answer is run, and no test here would say anything: so CI's machine must."""
    assert SANDBOXES


def test_a_right_program_passes_and_a_wrong_one_does_not(sandbox: Isolation) -> None:
    assert judged(RIGHT, sandbox) == Verdict(True)
    assert judged("def add(a, b):\n    return a - b\n", sandbox) == Verdict(False, "a wrong result")
    assert judged("def add(a, b):\n    return 1 // 0\n", sandbox) == Verdict(False, "raised ZeroDivisionError")
    assert judged("def add(a, b) return", sandbox) == Verdict(False, "raised SyntaxError")
    assert judged("def other(a, b):\n    return a + b\n", sandbox) == Verdict(False, "raised KeyError")
    assert judged("\ud800", sandbox) == Verdict(False, "no text")


HOSTILE = {
    "exit before the assert": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "exit at once": "import os\nos._exit(0)\n",
    "sys.exit": "import sys\nsys.exit(0)\n",
    "always equal": "class Yes:\n    def __eq__(self, o): return True\ndef add(a, b): return Yes()\n",
    "an int that is always equal": "class Y(int):\n    def __eq__(self, o): return True\ndef add(a, b): return Y(7)\n",
    "patched assert": "import builtins\nbuiltins.AssertionError = Exception\n__debug__ = 0\ndef add(a, b): return 0\n",
    "patched check": (
        "import sys, __main__\ndef check(candidate): pass\n__main__.check = check\n"
        "sys.modules['builtins'].exec = lambda *a: None\ndef add(a, b): return 0\n"
    ),
    "says passed": (
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'[\"passed\", \"\"]\\n' * 9)\n"
        "    except OSError: pass\n"
        "def add(a, b): return 0\n"
    ),
    "memory": "def add(a, b): return [0] * (1 << 40)\n",
    "memory bit by bit": "def add(a, b):\n    x = []\n    while True: x.append(bytearray(1 << 24))\n",
    "an endless result": "def add(a, b): return 'x' * (1 << 26)\n",
    "a deep result": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n",
    "recursion": "def add(a, b): return add(a, b)\n",
    "the frame of the caller": "import sys\ndef add(a, b): return sys._getframe(1).f_locals['expected']\n",
    "reading the tests": (
        "import gc\ndef add(a, b):\n"
        "    seen = [o for o in gc.get_objects() if isinstance(o, dict) and 'check' in o]\n"
        "    return 5 if seen else 0\n"
    ),
    "segmentation fault": "import ctypes\ndef add(a, b): return ctypes.string_at(0)\n",
    "killing everybody": "import os, signal\ndef add(a, b):\n    os.kill(-1, signal.SIGKILL)\n    return a + b\n",
    "killing the parent": "import os, signal\ndef add(a, b):\n    os.kill(os.getppid(), 9)\n    return a + b\n",
    "fork": "import os\ndef add(a, b):\n    os.fork()\n    return a + b\n",
    "fork bomb": "import os\nwhile True: os.fork()\n",
    "a program": "import subprocess\ndef add(a, b):\n    subprocess.run(['/bin/sh', '-c', 'true'])\n    return a + b\n",
    "another program in its place": "import os, sys\ndef add(a, b):\n    os.execv(sys.executable, ['python'])\n",
    "ptrace": (
        "import ctypes\ndef add(a, b):\n"
        "    assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0\n    return a + b\n"
    ),
    "a socket": "import socket\ndef add(a, b):\n    socket.socket()\n    return a + b\n",
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_programs_fail(attack: str, sandbox: Isolation) -> None:
    verdict = judged(HOSTILE[attack], sandbox)
    assert not verdict.passed, verdict


def test_what_takes_for_ever_is_ended(sandbox: Isolation) -> None:
    endless = (
        "def add(a, b):\n    while True: pass\n",
        "import time\ntime.sleep(600)\n",
        "def add(a, b):\n    while True: print('x' * 10000)\n",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ntime.sleep(600)\n",
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nsignal.signal(2, signal.SIG_IGN)\ntime.sleep(600)\n",
    )
    started = time.monotonic()
    with ThreadPoolExecutor(len(endless)) as threads:
        verdicts = list(threads.map(lambda program: judged(program, sandbox, seconds=2), endless))
    assert verdicts == [Verdict(False, "out of time")] * len(endless)
    assert time.monotonic() - started < 10


def test_no_file_outside_is_seen_or_changed(sandbox: Isolation, tmp_path: Path) -> None:
    """A program that passes only if it could read, write or delete it."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    for action in ("open({0!r}).read()", "os.remove({0!r})", "open({0!r}, 'w')", "os.listdir({1!r})"):
        action = action.format(str(secret), str(tmp_path))
        program = f"import os\ndef add(a, b):\n    {action}\n    return a + b\n"
        assert judged(program, sandbox) == Verdict(False, "raised FileNotFoundError")
    assert secret.read_text() == "x"
    delete = "import shutil\nshutil.rmtree('/', ignore_errors=True)\n"
    assert judged(delete + RIGHT, sandbox).passed  # it deleted its own empty folder
    assert judged(RIGHT, sandbox).passed
    data = Path(__file__).parents[2] / "evaluation" / "data"
    assert not judged(f"import os\nassert os.path.exists({str(data)!r})\n" + RIGHT, sandbox).passed


def test_it_has_an_empty_temporary_folder_and_nothing_else_to_write_to(sandbox: Isolation) -> None:
    program = (
        "import os, tempfile\n"
        "assert os.getcwd() == '/tmp' and os.listdir() == []\n"
        "open('a', 'w').write('x')\n"
        "for folder in ('/', '/usr/lib', '/sandbox/evaluation/sandbox/inside', '/dev'):\n"
        "    try: open(folder + '/a', 'w')\n"
        "    except OSError: pass\n"
        "    else: raise SystemExit\n"
    )
    for _ in range(2):  # the second finds nothing of the first
        assert judged(program + RIGHT, sandbox) == Verdict(True)


def test_a_disk_cannot_be_filled(sandbox: Isolation) -> None:
    program = (
        "written = 0\ntry:\n    for n in range(100):\n        with open(f'/tmp/{n}', 'wb') as f:\n"
        "            f.write(bytes(15 << 20)); written += 15\nexcept OSError: pass\nassert written < 100\n"
    )
    assert judged(program + RIGHT, sandbox) == Verdict(True)


def test_nothing_is_inherited(sandbox: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    kept = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(kept, True)
    program = (
        "import os, stat\n"
        "assert 'HF_TOKEN' not in os.environ and 'HOME' not in os.environ\n"
        "for fd in range(64):\n"
        "    try: mode = os.fstat(fd).st_mode\n"
        "    except OSError: continue\n"
        "    assert stat.S_ISFIFO(mode) or stat.S_ISCHR(mode), fd\n"
        "assert os.getuid() != 0\n"
    )
    try:
        assert judged(program + RIGHT, sandbox) == Verdict(True)
    finally:
        os.close(kept)


def test_no_port_of_this_machine_is_reached(sandbox: Isolation) -> None:
    """Were a socket to be had, in another network there is nobody: here the filter already says no."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n"
        assert judged(program + RIGHT, sandbox) == Verdict(False, "raised PermissionError")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_sandbox_dies_with_who_started_it(sandbox: Isolation, tmp_path: Path) -> None:
    """Killed outright in the middle of a judgment, we leave no sleeping program behind."""
    script = (
        "from evaluation.sandbox.isolation import Isolation\nfrom evaluation.sandbox.judge import judge\n"
        f"judge('import time; time.sleep(600)', '', {TEST!r}, 'add', {sandbox!r}, 300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 20
    while not _children() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()
    assert _all_ended()


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.cache_clear()
    monkeypatch.setattr("evaluation.sandbox.isolation._does_not_work", lambda candidate: "not allowed")
    with pytest.raises(SixfoldError, match=r"nothing here isolates .*Linux namespaces: not allowed.*--unsafe"):
        isolation()
    isolation.cache_clear()


def test_a_sandbox_that_cannot_be_entered_is_no_verdict_on_a_program() -> None:
    broken = Isolation("broken", ("/bin/false",), "/", True)
    with pytest.raises(SixfoldError, match=r"the sandbox cannot be entered \(its first process ended\); run the same"):
        judged(RIGHT, broken)


def test_a_result_that_takes_for_ever_to_compare(sandbox: Isolation) -> None:
    """The time is the tests' too: here they never come to an end over what the program returned."""
    test = "def check(candidate):\n    n = candidate(2, 3)\n    while n: pass\n"
    assert judged(RIGHT, sandbox, test, seconds=1) == Verdict(False, "out of time")


def test_forced_it_still_has_limits_and_the_filter() -> None:
    sandbox = unisolated()
    assert judged(RIGHT, sandbox).passed
    for attack in ("exit before the assert", "memory", "fork bomb", "a socket", "killing the parent", "always equal"):
        assert not judged(HOSTILE[attack], sandbox).passed


PLAIN = [
    None, True, 0, -5, 1 << 70, 0.1, float("inf"), "", "\ud800 ø", [], [1, [2.0]], (), (1, (2,)), {},
    {1: "a", (1, 2): []}, {1, 2}, frozenset({"a"}), 1 + 2j, b"x", bytearray(b"y"), {"tuple": [1]},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_crosses_as_it_is(value: object) -> None:
    back = value_of(line_of(value))
    assert back == value
    assert type(back) is type(value)


def test_nothing_else_does() -> None:
    class Number(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(value_of(line_of(Number(3)))) is int
    assert isinstance(value_of(line_of(range(3))), Opaque)
    assert value_of(line_of([object()])) != [object()]
    for line in (b"", b"[1", b'{"os.system": "x"}\n', b'{"int": 5}\n', b"[" * 100000 + b"\n", b"0" * LONGEST + b"\n"):
        with pytest.raises(NotPlain):
            value_of(line)
