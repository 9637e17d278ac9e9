"""Which sandbox this machine has, and the command that starts a worker in it.

bubblewrap where it is installed, which is kept by many; else namespaces of our own (evaluation/sandbox/namespaces.py).
Either shows the worker the interpreter, the standard library, the system's shared libraries and the few modules in
evaluation/sandbox/inside, all read-only, and nothing else: no home, no data set, no installed package, no network, no
process. In both, the worker sets limits and a filter of system calls on itself before foreign code runs.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.sandbox import namespaces
from sixfold.errors import SixfoldError

_CODE = "/sandbox"
_INSIDE = Path(__file__).parent / "inside"
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
_PACKAGES = ("dist-packages", "site-packages")
_SECONDS = 20


@dataclass(frozen=True)
class Isolation:
    """name: of the sandbox, for people. command: what comes before the interpreter's arguments. root: folder that
    modules are imported from, as the worker sees it. filter: whether the worker refuses to run without its filter of
    system calls."""

    name: str
    command: tuple[str, ...]
    root: str
    filter: bool

    def worker(self) -> list[str]:
        return [*self.command, *interpreter(self.root, "evaluation.sandbox.inside.worker")]


def interpreter(root: str, module: str) -> list[str]:
    """Arguments that run a module's main() with the standard library and what is in `root`, and nothing else."""
    start = f"import sys; sys.path.insert(0, {root!r}); from {module} import main; main()"
    return [_python(), "-I", "-S", "-B", "-X", "utf8", "-c", start]


def unisolated() -> Isolation:
    """Limits, and the filter of system calls where there is one. Only for who asked for it."""
    return Isolation("none (forced)", (), str(Path(__file__).parents[2]), False)


@cache
def isolation() -> Isolation:
    """The first of this machine's sandboxes that works. Raises SixfoldError where none does."""
    reasons = []
    for candidate in _candidates():
        reason = _does_not_work(candidate)
        if not reason:
            return candidate
        reasons.append(f"{candidate.name}: {reason}")
    raise SixfoldError(
        f"nothing here isolates the code that a model writes ({'; '.join(reasons)})",
        "install bubblewrap, or allow user namespaces; --unsafe runs it with limits alone",
    )


def _candidates() -> Iterator[Isolation]:
    bubblewrap = shutil.which("bwrap")
    if bubblewrap:
        yield Isolation(f"bubblewrap {_version(bubblewrap)}".strip(), _bubblewrap(bubblewrap), _CODE, True)
    yield Isolation("Linux namespaces", _namespaces(), _CODE, True)


def _bubblewrap(program: str) -> tuple[str, ...]:
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--uid", str(namespaces.NOBODY), "--gid", str(namespaces.NOBODY), "--hostname", "sandbox"]
    for path, where in _shown():
        command += ["--ro-bind", str(path), where]
    for where in _hidden():
        command += ["--tmpfs", where, "--remount-ro", where]
    command += ["--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null"]
    command += ["--size", str(namespaces.SPACE), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]
    return tuple(command)


def _namespaces() -> tuple[str, ...]:
    shown = [f"{path}={where}" for path, where in _shown()] + [f"={where}" for where in _hidden()]
    start = interpreter(str(Path(__file__).parents[2]), "evaluation.sandbox.namespaces")
    return (*start, *shown, "/dev/null=/dev/null", "--")


def _shown() -> Iterator[tuple[Path, str]]:
    """What the worker sees: where it is, and where it is seen. Links on the way keep their names."""
    seen: set[str] = set()
    prefix = Path(sys.base_prefix)
    library = Path(sysconfig.get_paths(vars={"base": str(prefix), "platbase": str(prefix)})["stdlib"])
    platform = Path(sysconfig.get_paths(vars={"base": str(prefix), "platbase": str(prefix)})["platstdlib"])
    shared = Path(sysconfig.get_config_var("LIBDIR") or prefix / "lib")
    libraries = [path for name in dict.fromkeys([shared, platform.parent]) for path in name.glob("libpython*.so*")]
    for path in [*map(Path, _SYSTEM), library, platform, *libraries, Path(_python())]:
        if path.exists() and str(path) not in seen and not _within(path, seen):
            seen.add(str(path))
            yield path, str(path)
    yield _INSIDE, f"{_CODE}/evaluation/sandbox/inside"


def _within(path: Path, seen: set[str]) -> bool:
    return any(str(parent) in seen for parent in path.parents)


def _hidden() -> Iterator[str]:
    """Folders of installed packages in what is shown: a data set may be among them."""
    for path, where in _shown():
        if path.is_dir():
            for name in _PACKAGES:
                for found in (*path.glob(name), *path.glob(f"*/{name}")):
                    yield f"{where}/{found.relative_to(path)}"


@cache
def _python() -> str:
    """The interpreter itself: an environment's is a link to it, and not to be found in the sandbox."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def _version(bubblewrap: str) -> str:
    done = subprocess.run([bubblewrap, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip().rpartition(" ")[2]


_PROBE = """
import os, socket
open("/tmp/own", "w").write("x")
assert os.listdir("/tmp") == ["own"]
assert len([n for _, n in socket.if_nameindex() if n != "lo"]) == 0
assert not os.path.exists("/proc/self/stat") and os.getpid() <= 3 and os.getuid() != 0
print("closed")
"""


def _does_not_work(candidate: Isolation) -> str:
    """Why, "" where a probe finds itself shut in."""
    command = [*candidate.command, _python(), "-I", "-S", "-c", _PROBE]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={},
            cwd="/",
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.stdout == "closed\n":
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit code {done.returncode}"


def environment() -> dict[str, str]:
    """Of worker and tester: nothing of ours."""
    return {"LC_ALL": "C.UTF-8", "PATH": os.defpath}
