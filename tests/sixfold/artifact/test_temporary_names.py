"""What a killed process leaves under a temporary name goes; what a running one writes stays."""

import os
import subprocess
import sys
from pathlib import Path

from sixfold.artifact.workspace import clear_temporaries, write_atomically

KILLED = """
import os, sys
from pathlib import Path
from sixfold.artifact.workspace import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)
"""


def killed_while_writing(path: Path) -> Path:
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == 9
    (left,) = path.parent.glob(".*.tmp")
    return left


def test_a_dead_process_s_are_cleared_in_every_folder(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / "charts" / "divergence.svg")
    running = left.with_name(left.name.rpartition("-")[0] + f"-{os.getpid()}.tmp")
    elsewhere = left.with_name(".0123456789abcdef.another-host-1.tmp")
    own = tmp_path / "notes.tmp"
    for path in (running, elsewhere, own):
        path.touch()
    clear_temporaries(tmp_path)
    assert not left.exists()
    assert running.exists()
    assert elsewhere.exists()
    assert own.exists()


def test_the_next_write_of_the_same_file_clears_them(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / "plan.json")
    write_atomically(tmp_path / "plan.json", b"{}")
    assert not left.exists()
