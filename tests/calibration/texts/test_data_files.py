"""A split's files are those that the `datasets` library loads, for the layouts that repositories have."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from datasets import load_dataset
from huggingface_hub import metadata_load
from pyarrow import parquet

from calibration.texts.data_files import data_files
from calibration.texts.rows import Joined, rows_of
from sixfold.errors import UsageError
from sixfold.recipes.text_source import TextSource


def make_repository(folder: Path, files: list[str], configs: Any = None) -> Path:
    """Every file holds two rows that name it."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{name} {i}" for i in range(2)]
        if path.suffix == ".parquet":
            parquet.write_table(pa.table({"text": texts}), path)
        elif path.suffix in (".jsonl", ".json"):
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        else:
            path.write_text("text\n" + "\n".join(texts) + "\n")
    front = yaml.safe_dump({"license": "mit", **({"configs": configs} if configs else {})})
    (folder / "README.md").write_text(f"---\n{front}---\n# About\n")
    return folder


def ours(folder: Path, subset: str, split: str) -> list[str]:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    configs = (metadata_load(folder / "README.md") or {}).get("configs") or []
    source = TextSource(dataset="lab/set", subset=subset, split=split)
    return [str(folder / name) for name in data_files(source, configs, names)]


LAYOUTS = {
    "shards in data/ with configs": (
        ["data/tool-00000-of-00002.parquet", "data/tool-00001-of-00002.parquet", "data/xml-00000-of-00001.parquet"],
        [{"config_name": "default", "data_files": [{"split": s, "path": f"data/{s}-*"} for s in ("tool", "xml")]}],
        [("", "tool"), ("", "xml"), ("default", "xml")],
    ),
    "a folder for each subset": (
        ["all/train-00000-of-00001.parquet", "code/train-00000-of-00002.parquet", "code/train-00001-of-00002.parquet"],
        [{"config_name": s, "data_files": [{"split": "train", "path": f"{s}/train-*"}]} for s in ("all", "code")],
        [("code", "train"), ("all", "train")],
    ),
    "one file under a name of its own": (
        ["function_calling.json"],
        [{"config_name": "dataset", "data_files": [{"split": "train", "path": "function_calling.json"}]}],
        [("", "train"), ("dataset", "train")],
    ),
    "a default among several subsets": (
        ["a.jsonl", "b.jsonl"],
        [
            {"config_name": "a", "data_files": "a.jsonl"},
            {"config_name": "b", "data_files": ["b.jsonl"], "default": True},
        ],
        [("", "train"), ("a", "train")],
    ),
    "patterns across folders": (
        ["x/y/z/one.parquet", "x/two.parquet", "three.parquet"],
        [{"config_name": "default", "data_files": [{"split": "train", "path": ["x/**/*.parquet", "thr??.parquet"]}]}],
        [("", "train")],
    ),
    "names of splits, no configs": (["train.jsonl", "test.jsonl"], None, [("", "train"), ("", "test")]),
    "shards, no configs": (
        ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"],
        None,
        [("", "train"), ("", "validation")],
    ),
    "folders of splits, no configs": (["train/0000.parquet", "test/0000.parquet"], None, [("", "train"), ("", "test")]),
    "no split anywhere": (["rows.jsonl"], None, [("", "train")]),
}


@pytest.mark.parametrize(
    ("layout", "subset", "split"), [(name, *asked) for name, (_, _, all_) in LAYOUTS.items() for asked in all_]
)
def test_as_the_datasets_library(tmp_path: Path, layout: str, subset: str, split: str) -> None:
    files, configs, _ = LAYOUTS[layout]
    folder = make_repository(tmp_path / "repository", files, configs)
    theirs = load_dataset(str(folder), name=subset or None, split=split, cache_dir=str(tmp_path / "cache"))
    rows = Joined([rows_of(Path(path), 0) for path in ours(folder, subset, split)])
    assert sorted(map(str, rows.read(range(len(rows))))) == sorted(theirs["text"])


def test_the_hubs_own_conversion(tmp_path: Path) -> None:
    """refs/convert/parquet has no README, and a folder for each subset with one for each split."""
    files = ["code/train/0000.parquet", "code/train/0001.parquet", "code/test/0000.parquet", "maths/train/0000.parquet"]
    folder = make_repository(tmp_path, files)
    assert ours(folder, "code", "train") == [str(folder / name) for name in files[:2]]
    make_repository(tmp_path / "single", ["default/train/0000.parquet"])
    assert len(ours(tmp_path / "single", "", "train")) == 1


@pytest.mark.parametrize(
    ("files", "configs", "asked", "message"),
    [
        (["train.jsonl"], None, {"split": "test"}, "lab/set has no split test; write split: with one of train"),
        (["a/train.jsonl"], None, {"subset": "b"}, "lab/set has no subset b; write subset: with one of a"),
        (["train.jsonl"], None, {"subset": "b"}, "lab/set has no subset b; leave subset: out"),
        (["train.csv"], None, {}, "stored as csv, which is not read here; add `revision: refs/convert/parquet`"),
        (
            ["a.jsonl", "b.jsonl"],
            [{"config_name": n, "data_files": f"{n}.jsonl"} for n in "ab"],
            {},
            "lab/set has several subsets; write subset: with one of a, b",
        ),
        (
            ["a.jsonl"],
            [{"config_name": "a", "data_files": [{"split": "tool", "path": "a.jsonl"}]}],
            {},
            "lab/set has no split train; write split: with one of tool",
        ),
    ],
)
def test_what_a_dataset_does_not_have(
    tmp_path: Path, files: list[str], configs: Any, asked: dict[str, str], message: str
) -> None:
    folder = make_repository(tmp_path, files, configs)
    with pytest.raises(UsageError) as error:
        ours(folder, asked.get("subset", ""), asked.get("split", "train"))
    assert message in str(error.value)
