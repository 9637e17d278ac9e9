"""A disk that keeps no weights: what an export has hashed and synced to disk is let go of behind it.

A growing file's note says how far it is safe (sixfold.artifact.streaming.concurrent_file): so far it was hashed and is
on disk, and a hole takes its place. Sizes and times stay, and the manifest has the hash of what was written: everything
is written as in any run, and there need be room for some hundred megabytes of each file that grows, not for the files.
Headers stay, so that what the structure of an artifact says can be read. Weights read as zeros from then on.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sixfold.artifact.workspace import CALIBRATION, read_json
from sixfold.checkpoint.storage.safetensors_header import header_length
from sixfold.errors import SixfoldError

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_PAGE = 4096
_EVERY = 0.2
_GGUF_HEADER = 32 << 20
"""More than the keys, the tokenizer and the list of tensors of any model take."""


@contextmanager
def sink(folder: Path, *, statistics: bool = False) -> Iterator[None]:
    """While open, weight files that grow under `folder` are emptied as they become safe, and all of them at the end.
    statistics: those of finished layers, too. Raises OSError where the file system has no holes."""
    stopped = threading.Event()
    failed: list[BaseException] = []

    def follow() -> None:
        try:
            while not stopped.wait(_EVERY):
                _look(folder, statistics=statistics)
        except BaseException as error:  # raised in the caller's thread
            failed.append(error)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        stopped.set()
        follower.join()
    if failed:
        raise failed[0]
    for path in (*folder.rglob("*.safetensors"), *folder.rglob("*.gguf")):
        if statistics or CALIBRATION not in path.relative_to(folder).parts:
            _empty(path, path.stat().st_size)


def _look(folder: Path, *, statistics: bool) -> None:
    for note in folder.glob("*/*/.partial/*/*.json"):
        with suppress(FileNotFoundError):  # it was finished, or put in place, meanwhile
            found, name = read_json(note) or {}, note.with_suffix("")
            if "sha256" in found:
                _empty(name, int(found["bytes"]))
            elif "safe" in found:
                _empty(name.with_name(f"{name.name}.tmp"), int(found["safe"]))
    for layer in folder.glob(f"*/{CALIBRATION}/.partial/layer-*.safetensors") if statistics else ():
        with suppress(FileNotFoundError):
            _empty(layer, layer.stat().st_size)


def _empty(path: Path, stop: int) -> None:
    """Of the file, all from its header to byte `stop`. It keeps its time: by that it is known as unchanged."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        found = os.fstat(descriptor)
        start = -(-_header(path, descriptor, found.st_size) // _PAGE) * _PAGE
        if stop > start and found.st_blocks * 512 > start + _PAGE:
            _punch(descriptor, start, stop - start)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(descriptor)


def _header(path: Path, descriptor: int, size: int) -> int:
    if ".safetensors" not in path.name:
        return _GGUF_HEADER
    try:
        return header_length(path.name, os.pread(descriptor, 8, 0), size)
    except SixfoldError:  # not written yet
        return size


def _punch(descriptor: int, start: int, nbytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, start, nbytes):
        raise OSError(ctypes.get_errno(), "this file system cannot let go of parts of files")
