"""Progress of an upload, estimated from how far its files have been read.

upload_folder does not report how many bytes it has sent. It reads files about as fast as it sends them, and Linux shows
the position of every file that this process has open.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils._runtime import is_xet_available

from sixfold.progress import Progress

_OPEN = Path("/proc/self/fd")
_POSITIONS = Path("/proc/self/fdinfo")
_SECONDS = 0.25


@contextmanager
def watched(repo: str, sizes: Mapping[Path, int], progress: Progress) -> Iterator[None]:
    """While inside, show how far the files (resolved path -> bytes) have been read.

    Without Xet every file is read once for its sha256 before it is sent, which positions cannot tell from sending;
    there huggingface_hub's own bars, one for each file, are better, and are left on where a terminal shows them.
    """
    by_xet, were_disabled = is_xet_available(), are_progress_bars_disabled()
    if by_xet or not sys.stderr.isatty():
        disable_progress_bars()
    try:
        if by_xet:
            with progress(repo, sum(sizes.values()), "B") as advance, _polled(sizes, advance):
                yield
        else:
            yield
    finally:
        if not were_disabled:
            enable_progress_bars()


@contextmanager
def _polled(sizes: Mapping[Path, int], advance: Callable[[int], None]) -> Iterator[None]:
    done = threading.Event()
    furthest = dict.fromkeys(sizes, 0)

    def poll() -> None:
        while not done.wait(_SECONDS):
            for path, position in _positions(sizes).items():
                if position > furthest[path]:
                    advance(position - furthest[path])
                    furthest[path] = position

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
        advance(sum(sizes.values()) - sum(furthest.values()))
    finally:
        done.set()
        thread.join()


def _positions(sizes: Mapping[Path, int]) -> dict[Path, int]:
    """Path -> how far it is read, of those that are open; none where the system does not show it."""
    found: dict[Path, int] = {}
    try:
        handles = list(_OPEN.iterdir())
    except OSError:
        return found
    for handle in handles:
        try:
            path = handle.readlink()
            if path in sizes:
                first = (_POSITIONS / handle.name).read_text().split(None, 2)
                found[path] = max(found.get(path, 0), min(int(first[1]), sizes[path]))
        except (OSError, ValueError, IndexError):
            continue  # it was closed meanwhile
    return found
