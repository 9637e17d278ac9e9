"""Whether the files of a folder are complete, readable, and the same in the index, on disk and in the manifest."""

import re
import stat
from collections.abc import Iterator

from sixfold.artifact.manifest import damaged_files
from sixfold.artifact.workspace import read_json
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.errors import SixfoldError
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import INDEX, SINGLE
from verification.reading.subject import Subject

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_LEFT = re.compile(r"(^|/)\.|\.(tmp|partial|incomplete|lock|part)$")
_PICKLED = re.compile(r"\.(bin|pt|pth|ckpt|h5|msgpack|gguf)$")
_NO_RECORD = "it is no manifest of this project's, or it is damaged"
_LOADS = "engines load whatever the index or the glob of shards gives them: an old tensor may win"


def check_opening(subject: Subject) -> Iterator[Finding]:
    yield from subject.folder.opening


def check_index(subject: Subject) -> Iterator[Finding]:
    folder = subject.folder
    names = folder.weight_files
    if folder.index is None:
        if len(names) > 1:
            what = f"{len(names)} weight files, and no {INDEX}"
            yield Finding(
                "files.index", INDEX, what, "transformers finds no weights; vLLM loads them all", EXPORT_AGAIN
            )
        return
    listed = set(folder.index.values())
    for name in sorted(listed - set(names)):
        what = f"the index names {name}, which is not there"
        yield Finding("files.shard-missing", name, what, "loading stops", "copy the file, or export again")
    for name in sorted(set(names) - listed):
        what = f"{name} is a weight file that the index does not know"
        yield Finding("files.shard-left-over", name, what, _LOADS, "remove it if it is left from another save")
    held = {file: {stored.name for stored in header.tensors} for file, header in folder.headers.items()}
    for tensor, file in folder.index.items():
        if file in held and tensor not in held[file]:
            what = f"the index places it in {file}, which does not hold it"
            yield Finding("files.index-stale", tensor, what, "the tensor is not loaded", "rebuild the index")
    for file, header in folder.headers.items():
        for stored in header.tensors:
            if file in listed and stored.name not in folder.index:
                what = f"{file} holds it, and the index does not list it"
                yield Finding("files.index-stale", stored.name, what, "the tensor is not loaded", "rebuild the index")
    total = sum(t.nbytes for file, header in folder.headers.items() if file in listed for t in header.tensors)
    if set(folder.headers) >= listed and isinstance(folder.index_total, int) and folder.index_total != total:
        what = f"total_size says {folder.index_total}, the tensors have {total} bytes"
        yield Finding(
            "files.total-size", INDEX, what, "loaders reserve the wrong amount of memory", "rebuild the index"
        )


def check_doubles(subject: Subject) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for file, header in subject.folder.headers.items():
        for tensor in header.tensors:
            if tensor.name in seen:
                what = f"it is in {seen[tensor.name]} and in {file}"
                yield Finding("files.tensor-twice", tensor.name, what, _LOADS, "remove the file that is out of date")
            seen.setdefault(tensor.name, file)


def check_numbering(subject: Subject) -> Iterator[Finding]:
    shards = [m for name in subject.folder.weight_files if (m := _SHARD.fullmatch(name))]
    counts = {int(m[3]) for m in shards}
    if SINGLE in subject.folder.files and shards:
        what = f"{SINGLE} is beside numbered shards such as {shards[0][0]}"
        yield Finding("files.shard-left-over", SINGLE, what, _LOADS, "remove whichever is out of date")
    if len(counts) > 1:
        what = f"shards are numbered out of {' and of '.join(map(str, sorted(counts)))}"
        yield Finding("files.shard-left-over", shards[-1][0], what, _LOADS, "remove those left from another save")
    for count in counts if len(counts) == 1 else ():
        for number in sorted(set(range(1, count + 1)) - {int(m[2]) for m in shards}):
            name = f"{shards[0][1]}-{number:05d}-of-{count:05d}.safetensors"
            yield Finding(
                "files.shard-missing", name, f"shard {number} of {count} is missing", "loading stops", "copy it"
            )


def check_modes(subject: Subject) -> Iterator[Finding]:
    for name in subject.folder.files:
        mode = stat.S_IMODE((subject.folder.path / name).stat().st_mode)
        if mode & 0o044 != 0o044 and not name.startswith("."):
            what = f"its mode is {mode:04o}: only its owner can read it"
            yield Finding("files.mode", name, what, "a server under another user cannot open it", f"chmod 644 {name}")


def check_leftovers(subject: Subject) -> Iterator[Finding]:
    for name, size in subject.folder.files.items():
        if _LEFT.search(name) and not name.startswith((".git", ".cache/")):
            what = "it is what an unfinished run or download leaves"
            yield Finding("files.left-over", name, what, "the folder may be incomplete", "finish the run, or remove it")
        elif size == 0 and name.endswith((".json", ".safetensors", ".jinja", ".model", ".txt", ".py")):
            yield Finding("files.empty", name, "it is empty", "loading stops or continues without it", "copy it again")


def check_other_weights(subject: Subject) -> Iterator[Finding]:
    """Weights under names that are no model's own: what of them an engine reads depends on the engine."""
    folder = subject.folder
    if "adapter_config.json" in folder.files:
        what = "there is an adapter in the folder"
        yield Finding("files.adapter", "adapter_config.json", what, "transformers applies it to the model", "remove it")
    for name in folder.files:
        if "/" in name or name in folder.weight_files:
            continue
        if name.startswith("consolidated") and "params.json" in folder.files and not _is_the_sources(subject, name):
            what = "with params.json beside it, it is a model in Mistral's own layout"
            yield Finding("files.shard-left-over", name, what, "vLLM takes it for the model", "remove both")
        elif name.endswith(".safetensors") and "imatrix" not in name:
            try:
                held = {tensor.name for tensor in read_header(folder.path, name).tensors}
            except (SixfoldError, OSError):
                held = {name}
            if held & folder.tensors.keys() or name.startswith("adapter"):
                what = f"it holds {min(held & folder.tensors.keys(), default='an adapter')} beside the model's files"
                yield Finding("files.shard-left-over", name, what, _LOADS, "remove it")
        elif _PICKLED.search(name):
            what = "weights in another format lie beside the model's"
            yield Finding("files.shard-left-over", name, what, "some engines take them instead", "remove it", "warning")


def _is_the_sources(subject: Subject, name: str) -> bool:
    return subject.source is not None and (subject.source.checkpoint.folder / name).is_file()


def check_manifest(subject: Subject) -> Iterator[Finding]:
    """Only where the folder carries this project's own manifest."""
    path = subject.folder.path
    manifest = read_json(path / "manifest.json") if "manifest.json" in subject.folder.files else None
    if manifest is None and "manifest.json" in subject.folder.files:
        yield Finding("files.manifest", "manifest.json", _NO_RECORD, "what it recorded is not known", EXPORT_AGAIN)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return
    for name in damaged_files(path, manifest, read_json(path / "run.json")):
        present = name in subject.folder.files
        what = "it differs from what the manifest records" if present else "the manifest lists it, and it is missing"
        yield Finding("files.manifest", name, what, "it is not the file that was checked and measured", EXPORT_AGAIN)
    known = {*manifest["files"], INDEX}
    for name in subject.folder.weight_files:
        if name not in known:
            yield Finding("files.shard-left-over", name, "the manifest does not know it", _LOADS, "remove it")
