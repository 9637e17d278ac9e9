"""What one process holds, no other gets; what a killed one left behind is free."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sixfold.artifact.lock import exclusive
from sixfold.errors import SixfoldError

HOLDER = """
import sys, time
from pathlib import Path
from sixfold.artifact.lock import exclusive
with exclusive(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_the_holder_dies(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "a.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(SixfoldError, match=r"^busy; wait for it, or stop it\.$"), exclusive(lock, "busy"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert lock.exists()
    with exclusive(lock, "busy"):
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a.lock", "busy"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "a.lock", "busy"):
        pass
