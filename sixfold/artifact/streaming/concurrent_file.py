"""A file of known size that several threads write in any order; meanwhile it is hashed, synced to disk and renamed.

Behind the writers one thread follows the finished prefix: it hashes it from the page cache, pushes it to disk, and
records how far the file is safe, which is where a killed run resumes. Once the file is complete the same thread gives
it its name, while the writers already work on the next one.
"""

import hashlib
import os
import threading
from pathlib import Path

from sixfold.artifact.plan import PlannedFile
from sixfold.artifact.workspace import read_json, sync_folder, write_json
from sixfold.errors import SixfoldError

_HASHED = 1 << 20  # bytes read back and hashed at a time
_SAFE_EVERY = 256 << 20  # bytes between two records of how far a file is safe
_WRITTEN = 256 << 10
"""Bytes given to the kernel in one call. For larger writes ext4 looks for larger runs of free memory, which are costly
to find: measured, this takes 0.2 to 0.3 ns a byte, and a tensor of 4.7 MB in one call 0.4 to 1.8 ns."""


class GrowingFile:
    """`folder`/<file.name>, under a temporary name until it is complete; the caller also writes `file.header`.

    safe: bytes that are final from the start, where an earlier run with the same `key` left the file unfinished.
    Raises SixfoldError where the disk does not take it.
    """

    def __init__(self, file: PlannedFile, folder: Path, key: str) -> None:
        self.name, self.nbytes = file.name, file.nbytes
        self._folder, self._key = folder, key
        self._note, self._temporary = folder / f"{file.name}.json", folder / f"{file.name}.tmp"
        self.safe = self.safe_bytes(file, folder)
        self._sha256 = ""
        self._ranges: dict[int, int] = {}
        self._prefix = 0
        self._abandoned = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        try:
            self._descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._descriptor, file.nbytes)
        except OSError as error:
            raise _disk_failed(error) from error
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    @staticmethod
    def safe_bytes(file: PlannedFile, folder: Path) -> int:
        """Of an unfinished file that an earlier run left: how many from its start are on disk, with their final values.
        That it was a run with the same key is for the caller to know."""
        if not (folder / f"{file.name}.tmp").exists():
            return 0
        return int((read_json(folder / f"{file.name}.json") or {}).get("safe", 0))

    @property
    def alive(self) -> bool:
        """Whether it is neither on disk yet nor given up."""
        return self._thread.is_alive()

    def write(self, data: memoryview, offset: int) -> None:
        """Final bytes of the file from `offset` on. Raises SixfoldError where the disk does not take them."""
        start, nbytes = offset, len(data)
        while len(data):
            try:
                written = os.pwrite(self._descriptor, data[:_WRITTEN], offset)
            except OSError as error:
                raise _disk_failed(error) from error
            data = data[written:]
            offset += written
        self.finished(start, nbytes)

    def finished(self, start: int, nbytes: int) -> None:
        """Bytes [start, start + nbytes) hold their final values; every byte is reported once."""
        if nbytes == 0:
            return
        with self._changed:
            if self._error is not None:
                raise self._error
            self._ranges[start] = nbytes
            while self._prefix in self._ranges:
                self._prefix += self._ranges.pop(self._prefix)
            self._changed.notify()

    def whole(self) -> str:
        """Waits until the file is on disk under its name, and returns its sha256. To be called when all was written."""
        with self._changed:
            if self._prefix < self.nbytes and self._error is None:
                raise RuntimeError(f"{self.name}: nothing was written from byte {self._prefix} on")
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._sha256

    def abandon(self) -> None:
        """No more bytes will come: keeps the finished prefix for the next run, and names the file if that is all."""
        with self._changed:
            self._abandoned = True
            self._changed.notify()
        self._thread.join()

    def _guarded(self) -> None:
        try:
            self._follow()
        except OSError as error:
            self._error = _disk_failed(error)
        except BaseException as error:  # raised in the caller's thread, whatever it is
            self._error = error
        finally:
            os.close(self._descriptor)

    def _follow(self) -> None:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASHED))
        position = 0
        while position < self.nbytes:
            with self._changed:
                while self._prefix == position and not self._abandoned:
                    self._changed.wait()
                prefix = self._prefix
            if position == prefix:  # abandoned
                self._push(position)
                return
            while position < prefix:
                count = os.preadv(self._descriptor, [buffer[: prefix - position]], position)
                digest.update(buffer[:count])
                position += count
                if position - self.safe >= _SAFE_EVERY:
                    self._push(position)
        os.fsync(self._descriptor)
        self._temporary.replace(self._folder / self.name)
        sync_folder(self._folder)
        self._sha256 = digest.hexdigest()
        write_json(self._note, {"key": self._key, "bytes": self.nbytes, "sha256": self._sha256})

    def _push(self, position: int) -> None:
        """Everything before `position` to disk, and a note of it."""
        os.fsync(self._descriptor)
        self.safe = position
        write_json(self._note, {"key": self._key, "safe": position})


def _disk_failed(error: OSError) -> SixfoldError:
    return SixfoldError(
        f"writing the artifact failed: {error.strerror}",
        "check the disk that OUT is on and run the same command again: it resumes",
    )
