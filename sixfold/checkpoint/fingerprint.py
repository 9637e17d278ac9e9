"""What tells one checkpoint from another: the same for every copy of a folder, different for another fine-tune.

sha256 over, for each weight file in order, its name, its size, its header and 4 KB from the middle of every stored
tensor; then name and bytes of config.json and of the files carried on. A change that spares the middle of every
tensor goes unseen; hashing everything would cost a read of the whole model.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import FileHeader, StoredTensor

if TYPE_CHECKING:
    from hashlib import _Hash  # typeshed names the type of sha256()

SAMPLE = 4096
_BATCH = 64


def folder_fingerprint(folder: WeightFolder, headers: Sequence[FileHeader], texts: Sequence[str]) -> str:
    """Hex sha256 of a folder's checkpoint. texts: config.json and the files carried on."""
    digest = sha256(b"sixfold checkpoint 1\n")

    def middles(tensors: Sequence[StoredTensor]) -> list[bytes]:
        return [_middle(folder, tensor) for tensor in tensors]

    with ThreadPoolExecutor(8) as threads:  # the wait is for the disk's latency, once per tensor
        for header in headers:
            _add(digest, [header.file.encode(), str(header.size).encode(), header.raw])
            batches = [header.tensors[i : i + _BATCH] for i in range(0, len(header.tensors), _BATCH)]
            for samples in threads.map(middles, batches):
                _add(digest, samples)
    for name in texts:
        _add(digest, [name.encode(), (folder.folder / name).read_bytes()])
    return digest.hexdigest()


def commit_fingerprint(revision: str, headers: Sequence[FileHeader]) -> str:
    """Hex sha256 of a hub commit and its headers; not comparable with that of a folder."""
    digest = sha256(b"sixfold commit 1\n")
    _add(digest, [revision.encode()])
    for header in headers:
        _add(digest, [header.file.encode(), str(header.size).encode(), header.raw])
    return digest.hexdigest()


def _middle(folder: WeightFolder, tensor: StoredTensor) -> bytes:
    nbytes = min(SAMPLE, tensor.nbytes)
    return folder.read(tensor.file, tensor.offset + (tensor.nbytes - nbytes) // 2, nbytes)


def _add(digest: "_Hash", parts: Iterable[bytes]) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
