"""Which files of a dataset's repository hold a split, as the `datasets` library would choose them.

The `configs:` in the repository's README say it with patterns. Where there are none, names do:
`data/train-00000.parquet`, `test.jsonl`, and `<subset>/<split>/0000.parquet` on the branch of the Hub's own
conversions, refs/convert/parquet.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sixfold.errors import UsageError
from sixfold.recipes.text_source import TextSource

_SUFFIXES = (".parquet", ".jsonl", ".json", ".txt")
"""In the order of preference: a repository may hold the same rows twice."""
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_NO_DATA = re.compile(r"(^|/)(dataset_infos|dataset_dict|dataset_info|state|README|LICENSE|\.\w+)[^/]*$", re.IGNORECASE)
_CONVERTED = "default"
"""The folder that the Hub's conversion gives a dataset without subsets."""


def data_files(source: TextSource, configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, ...]:
    """Sorted names of the split's files. configs: as in the README. names: of all files in the repository.

    Raises UsageError that says what there is where the dataset has no such subset or split, or none that can be read.
    """
    config = _config(source, configs) if configs else None
    stated = config is not None and config.get("data_files")
    matching = _stated(source, stated, names) if stated else _conventional(source, config, names)
    usable = [name for name in matching if name.endswith(_SUFFIXES)]
    if not usable:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in matching}))
        raise UsageError(
            f"split {source.split} of dataset {source.dataset} is stored as {kinds}, which is not read here",
            "add `revision: refs/convert/parquet` to read the Hub's own conversion",
        )
    suffix = next(suffix for suffix in _SUFFIXES if any(name.endswith(suffix) for name in usable))
    return tuple(sorted(name for name in usable if name.endswith(suffix)))


def _config(source: TextSource, configs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The subset's entry; without a subset the only one, or the one that calls itself the default."""
    named = {str(config.get("config_name", _CONVERTED)): config for config in configs}
    if source.subset in named:
        return named[source.subset]
    if not source.subset:
        chosen = [c for name, c in named.items() if len(named) == 1 or c.get("default") or name == _CONVERTED]
        if chosen:
            return chosen[0]
    raise UsageError(
        f"dataset {source.dataset} has no subset {source.subset}"
        if source.subset
        else f"dataset {source.dataset} has several subsets",
        f"write subset: with one of {', '.join(named)}",
    )


def _stated(source: TextSource, stated: Any, names: Sequence[str]) -> list[str]:
    """What the README's `data_files` says: a pattern or several for the only split, or entries with split and path."""
    entries = stated if isinstance(stated, list) else [stated]
    splits: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (entry.get("split", "train"), entry["path"]) if isinstance(entry, dict) else ("train", entry)
        splits.setdefault(str(split), []).extend(paths if isinstance(paths, list) else [paths])
    if source.split not in splits:
        raise _no_split(source, splits)
    patterns = [_regular_expression(pattern) for pattern in splits[source.split]]
    found = [name for name in names if any(pattern.fullmatch(name) for pattern in patterns)]
    if not found:
        raise _no_split(source, ())
    return found


def _conventional(source: TextSource, config: Mapping[str, Any] | None, names: Sequence[str]) -> list[str]:
    data = [name for name in names if not _NO_DATA.search(name)]
    if config is not None and config.get("data_dir"):
        folder = str(config["data_dir"]).strip("./")
    else:
        folder = source.subset or (_CONVERTED if any(name.startswith(f"{_CONVERTED}/") for name in data) else "")
    inside = [name for name in data if name.startswith(f"{folder}/")] if folder else data
    if not inside:
        folders = sorted({name.split("/")[0] for name in data if "/" in name})
        raise UsageError(
            f"dataset {source.dataset} has no subset {source.subset}",
            f"write subset: with one of {', '.join(folders)}" if folders else "leave subset: out",
        )
    found = [name for name in inside if _mentions(name, source.split)]
    if found:
        return found
    present = [split for split in _SPLITS if any(_mentions(name, split) for name in inside)]
    if present or source.split != "train":
        raise _no_split(source, present)
    return inside


def _no_split(source: TextSource, present: Sequence[str] | Mapping[str, Any]) -> UsageError:
    subset = f", subset {source.subset}," if source.subset else ""
    return UsageError(
        f"dataset {source.dataset}{subset} has no split {source.split}",
        f"write split: with one of {', '.join(present)}" if present else "see its page on the Hub for what it has",
    )


def _mentions(name: str, split: str) -> bool:
    """Whether `split` is a word of the file's path."""
    return re.search(rf"(^|[/._ -]){re.escape(split)}([/._ -]|$)", name) is not None


def _regular_expression(pattern: str) -> re.Pattern[str]:
    """A shell pattern in which `*` stops at slashes and `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern.removeprefix("./"))
    known = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(known.get(p, p if p.startswith("[") and len(p) > 1 else re.escape(p)) for p in parts))
