"""Checkpoints and datasets on the Hugging Face Hub: resolved to a commit, inspected by headers, downloaded.

huggingface_hub's cache keeps finished files, so an interrupted download resumes with the next file; if the connection
is lost in the middle of a file, that file is resumed.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    get_session,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, tqdm, validate_repo_id

from sixfold.checkpoint.storage.safetensors_header import FileHeader, header_length, parse_header
from sixfold.errors import SixfoldError

Kind = Literal["model", "dataset"]

_FIRST_RANGE = 1 << 17
"""Bytes asked for first: most headers fit, and one request is cheaper than two."""


class _TerminalBar(tqdm):
    """huggingface_hub's progress bar, silent where there is no terminal to draw it on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": options.get("disable") or None})


def is_hub_id(model: str) -> bool:
    """Whether `model` has the form owner/name."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return model.count("/") == 1


def resolve_commit(repo: str, revision: str, kind: Kind = "model") -> str:
    """The commit that a branch, tag or commit ("" for the default branch) stands for; from the cache when offline."""
    with _hub_errors(repo, revision, kind, found=False):
        return HfApi().resolve_revision(repo, revision=revision or None, repo_type=kind).resolved


def list_files(repo: str, commit: str) -> dict[str, int] | None:
    """Name -> bytes of every file at this commit; None if the Hub cannot be reached but the cache has the commit."""
    with _hub_errors(repo, commit):
        try:
            tree = HfApi().list_repo_tree(repo, revision=commit, recursive=True)
            return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        except (OfflineModeIsEnabled, httpx.TransportError, HfHubHTTPError) as error:
            answered = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
            if not answered and isinstance(try_to_load_from_cache(repo, "config.json", revision=commit), str):
                return None
            raise


def list_dataset(repo: str, commit: str) -> dict[str, int]:
    """Name -> bytes of every file of a dataset at this commit; from the cache where an earlier download left it."""
    with _hub_errors(repo, commit, "dataset"):
        try:
            return {
                entry.path: entry.size for entry in get_cached_repo_tree(repo, revision=commit, repo_type="dataset")
            }
        except CachedRepoTreeNotFoundError:
            tree = HfApi().list_repo_tree(repo, revision=commit, recursive=True, repo_type="dataset")
            return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}


def download(repo: str, commit: str, sizes: Mapping[str, int], kind: Kind = "model") -> Path:
    """These files (name -> bytes) at this commit, in huggingface_hub's cache; returns the snapshot's folder."""
    cached = (try_to_load_from_cache(repo, name, revision=commit, repo_type=kind) for name in sizes)
    missing = [name for name, path in zip(sizes, cached, strict=True) if not isinstance(path, str)]
    needed, free = sum(sizes[name] for name in missing), free_bytes(Path(constants.HF_HUB_CACHE))
    if needed > free:
        raise SixfoldError(
            f"downloading {repo} takes {needed / 1e9:.1f} GB more, but {constants.HF_HUB_CACHE} has"
            f" {free / 1e9:.1f} GB free",
            "free some space or set HF_HOME to a larger disk",
        )
    with _hub_errors(repo, commit, kind):
        patterns = [_literal(name) for name in sizes]
        return Path(
            snapshot_download(repo, revision=commit, allow_patterns=patterns, tqdm_class=_TerminalBar, repo_type=kind)
        )


def cached_snapshot(repo: str, commit: str) -> Path:
    """The folder of a commit, with the files that are in the cache, without asking the Hub."""
    with _hub_errors(repo, commit):
        return Path(snapshot_download(repo, revision=commit, local_files_only=True, allow_patterns=["config.json"]))


def read_headers(repo: str, commit: str, sizes: Mapping[str, int], files: Sequence[str]) -> tuple[FileHeader, ...]:
    """Headers of safetensors files by range requests."""

    def header(file: str) -> FileHeader:
        first = _range(repo, commit, file, 0, min(_FIRST_RANGE, sizes[file]))
        length = header_length(file, first, sizes[file])
        if length > len(first):
            first += _range(repo, commit, file, len(first), length)
        return parse_header(file, first[:length], sizes[file])

    with _hub_errors(repo, commit), ThreadPoolExecutor(8) as threads:
        return tuple(threads.map(header, files))


def _range(repo: str, commit: str, file: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; stops reading where a server sends more than was asked for."""
    if start >= stop:
        return b""
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(repo, file, revision=commit)
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        skip = start if response.status_code == httpx.codes.OK else 0  # a server without ranges sends the whole file
        wanted, found = skip + stop - start, bytearray()
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) >= wanted:
                break
    return bytes(found[skip:wanted])


def _literal(name: str) -> str:
    """A shell pattern that matches only `name`."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _refused(repo: str, error: HfHubHTTPError, kind: Kind) -> SixfoldError:
    return SixfoldError(
        f"the Hub refused a request for {repo} with status {error.response.status_code}",
        f"try again later, or log in with `hf auth login` if the {kind} is not public",
    )


@contextmanager
def _hub_errors(repo: str, revision: str, kind: Kind = "model", *, found: bool = True) -> Iterator[None]:
    """Whatever huggingface_hub raises, as one sentence. found: whether the Hub is known to have `repo`."""
    model = kind == "model"
    try:
        yield
    except GatedRepoError as error:
        raise SixfoldError(
            f"access to {repo} is restricted on the Hub",
            f"accept its terms on {constants.ENDPOINT}/{'' if model else 'datasets/'}{repo}"
            " and log in with `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise SixfoldError(
            f"{repo} is neither a folder here nor a model on the Hub" if model else f"the Hub has no dataset {repo}",
            "check the spelling, or if it is private log in with `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise SixfoldError(f"{repo} has no revision {revision}", "give a branch, tag or commit that it has") from error
    except HfHubHTTPError as error:
        raise _refused(repo, error, kind) from error
    except (
        RevisionResolutionError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx.TransportError,
    ) as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refused(repo, error.__cause__, kind) from error
        if found:
            raise SixfoldError(
                f"the Hub could not be reached for all of {repo}",
                "check the connection and HF_HUB_OFFLINE, and run the same command again: finished files are kept",
            ) from error
        where = f"there is no folder {repo}, and the Hub" if model else "the Hub"
        raise SixfoldError(
            f"{where} cannot be reached to look for a {kind} of {'that' if model else 'the'} name"
            f"{'' if model else f' {repo}'}",
            f"check {'the path, or ' if model else ''}the connection and HF_HUB_OFFLINE",
        ) from error
    except OSError as error:
        raise SixfoldError(
            f"downloading {repo} failed: {str(error).splitlines()[0]}", "run the same command again to resume"
        ) from error
