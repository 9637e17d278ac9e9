"""A checkpoint on disk or on the Hub, seen as BF16/FP16/FP32 tensors whatever it is stored in."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from sixfold.boundary.json_text import parse_json
from sixfold.checkpoint import hub
from sixfold.checkpoint.carried_files import carried_files, check_links
from sixfold.checkpoint.config_bounds import check_bounds
from sixfold.checkpoint.fingerprint import commit_fingerprint, folder_fingerprint
from sixfold.checkpoint.location import CONFIG, local_folder
from sixfold.checkpoint.provenance import FILE as PROVENANCE
from sixfold.checkpoint.provenance import Provenance, read_provenance
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import FileHeader, read_header, tensor_nbytes
from sixfold.checkpoint.storage.source_encodings import (
    MODELOPT_CONFIG,
    StoredAs,
    as_quantized,
    check_quantization,
    logical_tensors,
)
from sixfold.checkpoint.storage.weight_files import INDEX, collect_tensors, parse_index, weight_files
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError

if TYPE_CHECKING:
    from sixfold.checkpoint.expert_slice import ExpertSlice

__all__ = ["CONFIG", "Checkpoint", "Provenance", "SourceTensor", "open_checkpoint"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class SourceTensor:
    """A tensor as exporters see it: dtype is a safetensors name; quantized sources appear as BF16 under one name.

    stored_as: "plain", or what it is dequantized from as it is read ("fp8", "nvfp4", "mxfp4", "int4",
    "int8").
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    stored_as: str = "plain"


@dataclass(frozen=True)
class Contents:
    """How a checkpoint's bytes are reached. `read` gets a slice whose bounds hold, `read_into` a tensor that fits.

    All three can be pickled, so that other processes and machines read the same checkpoint.
    """

    read: Callable[[TensorSlice], torch.Tensor]
    read_into: Callable[[str, torch.Tensor], None]
    fingerprint: Callable[[], str]
    files: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """Weight files that are here -> (size, modification time in ns) as they were when the checkpoint was opened."""


@dataclass(frozen=True)
class Checkpoint:
    """name: for output folders. location: as the user gave it. revision: hub commit, "" for a folder. tensors: logical
    tensors by name, in the order of files and offsets. extras: other files to carry over (tokenizer, chat template,
    generation config, LICENSE), relative names, all of them in `folder`. bare: config.json is all there is; `tensors`
    is what it describes (see sixfold.model.bare_config). slices: those of `tensors` that are cut from one that holds
    all experts of a layer (see sixfold.model.expert_stacks); stored: the checkpoint without such cuts. quantized: the
    stored bytes of what `tensors` has dequantized, where a format can hold them: MXFP4 as U8 [experts, rows, blocks,
    17], the scale before the values; FP8 in blocks of 128 x 128 as it is, its scales apart."""

    name: str
    location: str
    folder: Path
    revision: str
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    extras: tuple[str, ...]
    provenance: Provenance
    contents: Contents = field(repr=False, compare=False)
    bare: bool = False
    slices: Mapping[str, "ExpertSlice"] = field(default_factory=dict, repr=False)
    stored: "Checkpoint | None" = field(default=None, repr=False, compare=False)
    quantized: Mapping[str, SourceTensor] = field(default_factory=dict, repr=False)

    @property
    def as_stored(self) -> "Checkpoint":
        """With the tensors that are on disk, all experts of a layer in one where they are stored so."""
        return self if self.stored is None else self.stored

    @property
    def config_location(self) -> str:
        """Of config.json, for messages."""
        return self.location if self.bare and self.location.endswith(".json") else f"{self.location}/{CONFIG}"

    @cached_property
    def main_dtype(self) -> str:
        """The dtype that most of its bytes are in ("BF16", "F16", "F32")."""
        totals: dict[str, int] = {}
        for tensor in self.tensors.values():
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.nbytes
        return max(totals, key=lambda dtype: totals[dtype])

    def read(self, part: TensorSlice) -> torch.Tensor:
        """Rows [start, stop) of a logical tensor along its first dimension, in the tensor's own dtype, dequantized if
        stored quantized; a 0-d tensor is rows 0 to 1. A fresh tensor each time; safe to call from many threads."""
        tensor = self.named(part.name)
        rows = tensor.shape[0] if tensor.shape else 1
        if not 0 <= part.start <= part.stop <= rows:
            raise ValueError(f"{part.name} has {rows} rows, not {part.start} to {part.stop}")
        return self.contents.read(part)

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fill the contiguous CPU tensor `out` of the named tensor's shape, converted to the dtype of `out`; straight
        from the file where no conversion is needed. Safe to call from many threads."""
        self.named(name)
        self.contents.read_into(name, out)

    def check_unchanged(self) -> None:
        """Raises SixfoldError where a weight file is not the one that was opened: what was read is of no use then."""
        for path, opened in self.contents.files.items():
            if not path.is_file() or _stamp(path) != opened:
                raise SixfoldError(
                    f"{path} changed while it was being read", "run the same command again once nothing writes to it"
                )

    def named(self, name: str) -> SourceTensor:
        """Whatever can be read. Raises SixfoldError where there is none of that name."""
        tensor = self.tensors.get(name) or self.as_stored.tensors.get(name) or self.quantized.get(name)
        if tensor is None:
            raise SixfoldError(f"{self.location} has no tensor {name}", "see `sixfold inspect` for what it has")
        return tensor

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 (see sixfold.checkpoint.fingerprint); computed on first use, as it samples every tensor."""
        return self.contents.fingerprint()


def open_checkpoint(
    model: str, *, revision: str = "", name: str = "", provenance: Provenance | None = None, headers_only: bool = False
) -> Checkpoint:
    """A folder or a hub id ("owner/name", where there is no such folder), from its config, index and headers.

    revision: branch, tag or commit of a hub id. name: in place of the folder's or repository's own.
    provenance: overrides provenance.yaml. headers_only: of a hub id fetch the small files and the
    headers of the weights (range requests); `read` then refuses. A hub id is downloaded otherwise.
    """
    asked = _Asked(model, name, provenance)
    folder = local_folder(model)
    if folder is None:
        return _open_hub(asked, hub.resolve_commit(model, revision), model.split("/")[1], headers_only)
    if revision:
        raise SixfoldError(f"{model} is a folder, which has no revision {revision}", "leave the revision out")
    return _open_folder(asked, folder, "", _folder_name(folder))


@dataclass(frozen=True)
class _Asked:
    """What the user gave. name and provenance override what the checkpoint states."""

    model: str
    name: str
    provenance: Provenance | None


def _open_folder(asked: _Asked, folder: Path, revision: str, own_name: str) -> Checkpoint:
    where = asked.model
    names = {path.name for path in folder.iterdir() if path.is_file()}
    index = parse_index(where, _bytes(folder / INDEX)) if INDEX in names else None
    names |= {file for file in set((index or {}).values()) if (folder / file).is_file()}
    files = weight_files(where, names, index)
    config = read_config(folder / CONFIG, where)
    method = check_quantization(config, names, where)
    headers = tuple(_header(folder, file) for file in files)
    logical = logical_tensors(collect_tensors(where, headers, index), config, method, where)
    extras = carried_files(names)
    check_links(folder, extras)
    weights, readable = WeightFolder(folder), {**logical, **as_quantized(logical)}
    contents = Contents(
        partial(_read, readable, weights),
        partial(_read_into, readable, weights),
        # A commit pins the bytes, so what was downloaded and what is known by its headers alone are one checkpoint.
        partial(commit_fingerprint, revision, headers)
        if revision
        else partial(folder_fingerprint, weights, headers, (CONFIG, *extras)),
        {folder / file: _stamp(folder / file) for file in files},
    )
    return _assemble(asked, folder, revision, own_name, config, logical, extras, contents)


def _open_hub(asked: _Asked, commit: str, own_name: str, headers_only: bool) -> Checkpoint:
    repo = asked.model
    sizes = hub.list_files(repo, commit)
    if sizes is None:  # the Hub cannot be reached: use what the cache has
        return _open_folder(asked, hub.cached_snapshot(repo, commit), commit, own_name)
    extras = carried_files(sizes)
    small = [n for n in (CONFIG, INDEX, PROVENANCE, MODELOPT_CONFIG, *extras) if n in sizes]
    folder = hub.download(repo, commit, {n: sizes[n] for n in small})
    # Whatever can be refused without the weights is refused before they are downloaded.
    index = parse_index(repo, _bytes(folder / INDEX)) if INDEX in sizes else None
    files = weight_files(repo, sizes, index)
    config = read_config(folder / CONFIG, repo)
    method = check_quantization(config, sizes, repo)
    if not headers_only:
        folder = hub.download(repo, commit, {n: sizes[n] for n in (*small, *files)})
        return _open_folder(asked, folder, commit, own_name)
    headers = hub.read_headers(repo, commit, sizes, files)
    logical = logical_tensors(collect_tensors(repo, headers, index), config, method, repo)

    contents = Contents(
        partial(_not_fetched, repo), partial(_not_fetched, repo), partial(commit_fingerprint, commit, headers)
    )
    return _assemble(asked, folder, commit, own_name, config, logical, extras, contents)


def _read(logical: Mapping[str, StoredAs], weights: WeightFolder, part: TensorSlice) -> torch.Tensor:
    return logical[part.name].read(weights, part.start, part.stop)


def _read_into(logical: Mapping[str, StoredAs], weights: WeightFolder, name: str, out: torch.Tensor) -> None:
    logical[name].read_into(weights, out)


def _not_fetched(repo: str, what: TensorSlice | str, out: torch.Tensor | None = None) -> NoReturn:
    name = what if isinstance(what, str) else what.name
    raise SixfoldError(f"only the headers of {repo} were fetched, not {name}", "download it first")


def _assemble(
    asked: _Asked,
    folder: Path,
    revision: str,
    own_name: str,
    config: Mapping[str, Any],
    logical: Mapping[str, StoredAs],
    extras: tuple[str, ...],
    contents: Contents,
) -> Checkpoint:
    past = read_provenance(folder, asked.provenance)
    name = checked_name(asked.name or past.name or own_name, asked.model)
    tensors, quantized = (
        {n: SourceTensor(n, t.dtype, t.shape, tensor_nbytes(t.dtype, t.shape), t.kind) for n, t in these.items()}
        for these in (logical, as_quantized(logical))
    )
    return Checkpoint(name, asked.model, folder, revision, config, tensors, extras, past, contents, quantized=quantized)


def is_name(text: str) -> bool:
    """Whether it can name folders and repositories."""
    return bool(_NAME.fullmatch(text))


def checked_name(name: str, model: str) -> str:
    """`name`, where it can name folders and repositories; SixfoldError elsewhere."""
    if not is_name(name):
        raise SixfoldError(
            f"{name!r} cannot name the output folders and repositories of {model}",
            "give a name of letters, digits, '-', '_' and '.' (--name, or NAME= in make)",
        )
    return name


def _folder_name(folder: Path) -> str:
    """The folder's own name; for a snapshot in huggingface_hub's cache, the repository's."""
    path = folder.absolute()
    cached = path.parent.parent.name.split("--")
    if path.parent.name == "snapshots" and cached[0] == "models":
        return cached[-1]
    return path.name or path.resolve().name


def read_config(path: Path, where: str) -> dict[str, Any]:
    """The JSON object that a config.json holds. where: the model, for messages."""
    if not path.is_file():
        raise SixfoldError(f"there is no {CONFIG} in {where}", "give a model folder as transformers saves it")
    config = parse_json(_bytes(path), f"{CONFIG} in {where}")
    if not isinstance(config, dict):
        raise SixfoldError(f"{CONFIG} in {where} is not a JSON object", "correct it or download it again")
    check_bounds(config, f"{CONFIG} in {where}")
    return config


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _header(folder: Path, file: str) -> FileHeader:
    with _readable(folder / file):
        return read_header(folder, file)


def _bytes(path: Path) -> bytes:
    with _readable(path):
        return path.read_bytes()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SixfoldError(f"cannot read {path}: {error.strerror}", "check its permissions and the disk") from error
