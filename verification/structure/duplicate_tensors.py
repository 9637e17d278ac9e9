"""Whether a matrix, or a bias of a router, was written in another one's place: two of them with the same bytes."""

import hashlib
from collections.abc import Iterator

from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import Folder
from verification.reading.subject import Subject

_SAMPLE = 4096
_SMALLEST = 1024
"""Bytes below which equal tensors are chance or habit (norms of ones, scalars)."""


def check_doubles(subject: Subject) -> Iterator[Finding]:
    """A layer or expert that was written twice has the same bytes under two names. Samples first, all of them last."""
    folder = subject.folder
    by_sample: dict[bytes, list[str]] = {}
    biases = subject.blueprint.architecture.correction_biases if subject.blueprint is not None else ()
    for name, stored in folder.tensors.items():
        if (len(stored.shape) != 2 or stored.nbytes < _SMALLEST) and name not in biases:
            continue
        sample = _sample(folder, name)
        if len(set(sample)) > 8:  # constants are no weights
            digest = hashlib.sha256(sample + repr((stored.dtype, stored.shape)).encode()).digest()
            by_sample.setdefault(digest, []).append(name)
    for names in by_sample.values():
        whole: dict[bytes, str] = {}
        for name in names if len(names) > 1 else ():
            digest = _digest(folder, name)
            first = whole.setdefault(digest, name)
            if first != name and not _tied(first, name):
                for one, other in ((name, first), (first, name)):  # which of the two is right only the source can tell
                    yield Finding(
                        "weights.doubled",
                        one,
                        f"its bytes are those of {other}",
                        "one matrix is in the place of another: readable but damaged text",
                        EXPORT_AGAIN,
                    )


def _tied(one: str, other: str) -> bool:
    return any("embed" in name or name.startswith("lm_head") for name in (one, other))


def _sample(folder: Folder, name: str) -> bytes:
    stored = folder.tensors[name]
    size = min(_SAMPLE, stored.nbytes)
    middle = stored.offset + (stored.nbytes - size) // 2
    return folder.weights.read(stored.file, middle, size)


def _digest(folder: Folder, name: str) -> bytes:
    stored = folder.tensors[name]
    digest = hashlib.sha256()
    step = 1 << 24
    for start in range(0, stored.nbytes, step):
        digest.update(folder.weights.read(stored.file, stored.offset + start, min(step, stored.nbytes - start)))
    return digest.digest()
