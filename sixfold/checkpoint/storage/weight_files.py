"""Which safetensors files hold a model's weights, decided from file names and the index; ambiguity is refused.

Works on names alone, so that a folder and a listing on the Hub go through the same rules:
- with model.safetensors.index.json: exactly the files it names;
- without: model.safetensors, or else the only safetensors file there is, ignoring what is not a model by itself
  (adapters, Mistral's consolidated copies).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError

if TYPE_CHECKING:
    from sixfold.checkpoint.storage.safetensors_header import FileHeader, StoredTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ASIDE = ("adapter*.safetensors", "consolidated*.safetensors", "training_args*", "optimizer*", "*imatrix*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SHARD = re.compile(r"(.+?)-\d{5,6}-of-\d{5,6}\.safetensors")


def weight_files(where: str, names: Collection[str], index: Mapping[str, str] | None) -> tuple[str, ...]:
    """Names of the weight files in order. where: for messages. index: tensor -> file, None where there is no index."""
    if index is None:
        return (_only_file(where, names),)
    files = sorted(set(index.values()))
    missing = [file for file in files if file not in names]
    if missing:
        raise SixfoldError(
            f"{INDEX} in {where} names {missing[0]}{_more(missing)}, which is not there",
            "finish the download or copy, or remove the index if it belongs to other files",
        )
    if SINGLE in names and SINGLE not in files:
        raise SixfoldError(
            f"{where} holds {SINGLE} beside an index of other files", "remove whichever of the two is out of date"
        )
    stems = {match[1] for file in files if (match := _SHARD.fullmatch(file))}
    for name in sorted(set(names) - set(files)):
        shard = _SHARD.fullmatch(name)
        if fnmatch(name, "model-*.safetensors") or (shard and shard[1] in stems):
            raise SixfoldError(
                f"{where} holds {name}, which {INDEX} does not know",
                "remove the file if it is left over from another save, or restore the index that belongs to it",
            )
    return tuple(files)


def parse_index(where: str, text: bytes) -> dict[str, str]:
    """model.safetensors.index.json -> tensor name -> file."""
    try:
        weight_map = parse_json(text, INDEX)["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError
        for file in weight_map.values():
            if not isinstance(file, str) or not file.endswith(".safetensors") or len(file) > 255 or "\0" in file:
                raise ValueError
    except (ValueError, KeyError, TypeError, SixfoldError):
        raise SixfoldError(
            f"{INDEX} in {where} is not an index of safetensors files", "download or copy it again"
        ) from None
    outside = [f for f in weight_map.values() if PurePosixPath(f).is_absolute() or ".." in PurePosixPath(f).parts]
    if outside:
        raise SixfoldError(f"{INDEX} in {where} names {outside[0]}, outside of the folder", "correct the index")
    return weight_map


def collect_tensors(
    where: str, headers: "Sequence[FileHeader]", index: Mapping[str, str] | None
) -> "dict[str, StoredTensor]":
    """All stored tensors by name, in the order of files and offsets; refuses doubles and an index that disagrees."""
    found: dict[str, StoredTensor] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in found:
                raise SixfoldError(
                    f"{tensor.name} is in two files of {where}: {found[tensor.name].file} and {tensor.file}",
                    "remove the file that is left over from another save",
                )
            found[tensor.name] = tensor
    if index is not None:
        absent = [name for name, file in index.items() if name not in found or found[name].file != file]
        if absent:
            raise SixfoldError(
                f"{INDEX} in {where} places {absent[0]} in {index[absent[0]]}, which does not hold it{_more(absent)}",
                "download or copy the index and the file again; they are from different saves",
            )
        unknown = [name for name in found if name not in index]
        if unknown:
            raise SixfoldError(
                f"{found[unknown[0]].file} in {where} holds {unknown[0]}, which {INDEX} does not list{_more(unknown)}",
                "download or copy the index and the file again; they are from different saves",
            )
    return found


def _only_file(where: str, names: Collection[str]) -> str:
    top = sorted(n for n in names if "/" not in n)
    candidates = [n for n in top if n.endswith(".safetensors")]
    models = [n for n in candidates if not any(fnmatch(n, pattern) for pattern in ASIDE)]
    shards = [n for n in models if _SHARD.fullmatch(n) and not n.endswith("-00001-of-00001.safetensors")]
    if shards:
        raise SixfoldError(
            f"{where} holds shards such as {shards[0]} but no {INDEX}", "download or copy the index as well"
        )
    if SINGLE in models:
        return SINGLE
    if len(models) == 1:
        return models[0]
    if models:
        raise SixfoldError(
            f"{where} holds several safetensors files and no {INDEX}: {', '.join(models)}",
            f"keep one, or name the model's own file {SINGLE}",
        )
    if any(n.startswith("adapter") for n in candidates):
        raise SixfoldError(f"{where} holds only an adapter", "merge it into its base model and save the whole model")
    pickles = [n for n in top if any(fnmatch(n, pattern) for pattern in PICKLES)]
    if pickles:
        raise SixfoldError(
            f"{where} holds only pickled weights ({pickles[0]}), which can run code when they are loaded",
            "convert them to safetensors: load with transformers and save_pretrained",
        )
    if any(n.lower().endswith(".gguf") for n in top):
        raise SixfoldError(
            f"{where} holds GGUF files, which are already quantized", "give the safetensors checkpoint they came from"
        )
    if candidates:
        raise SixfoldError(
            f"{where} holds {candidates[0]} but no weights that transformers would load",
            f"give the folder with {SINGLE} or its shards",
        )
    raise SixfoldError(
        f"there is no safetensors file in {where}", f"give a folder with {SINGLE}, or shards and {INDEX}"
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
