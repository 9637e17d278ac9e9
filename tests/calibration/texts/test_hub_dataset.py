"""Datasets of the Hub, from a stand-in on the loopback: pinned, mixed, resumed, and read again without a network."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from calibration.calibrate import calibration_inputs
from calibration.texts.corpus import text_files
from calibration.texts.tokens import token_batches
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration, load_recipes
from tests.hub_server import HubState, serve_repositories, the_only_hub

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
WORDS = "harbour tide rope sail anchor gull keel mast wave storm pier chart".split()


def sentence(number: int) -> str:
    return f"Row {number}: " + " ".join(WORDS[(number * 5 + i * i) % len(WORDS)] for i in range(60)) + "."


def question(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"Question {number}?"}


def thinking(name: str) -> list[dict[str, Any]]:
    said = [f"<think>\n{sentence(i)}\n</think>\n\n{name} answer {i}" for i in range(30)]
    return [
        {"messages": [question(i), {"role": "assistant", "content": text}], "num_tokens": 80, "source": name}
        for i, text in enumerate(said)
    ]


def function_calls() -> list[dict[str, Any]]:
    tool = {
        "name": "tides",
        "description": sentence(1),
        "parameters": {"pier": {"type": "str", "description": "Where"}},
    }
    calls = [{"name": "tides", "arguments": {"pier": sentence(2)}}]
    return [
        {"id": i, "query": f"Tides {i}?", "answers": json.dumps(calls), "tools": json.dumps([tool])} for i in range(30)
    ]


def trajectories() -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    return [
        {
            "messages": json.dumps(
                [
                    {"role": "system", "content": "You fix bugs.", "agent": "main"},
                    {"role": "user", "content": [{"type": "text", "text": sentence(i)}]},
                    {"role": "assistant", "content": "Looking.", "thought": "Looking.", "tool_calls": [call]},
                    {"role": "tool", "content": [{"type": "text", "text": "setup.py"}], "tool_call_ids": ["1"]},
                ]
            ),
            "instance_id": f"lab__{i}",
            "resolved": True,
            "patch": "diff",
        }
        for i in range(30)
    ]


def readme(folder: Path, configs: Sequence[Mapping[str, Any]] = (), license: str = "apache-2.0") -> None:
    text = json.dumps({"license": license, **({"configs": list(configs)} if configs else {})})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{text}\n---\n# About\n")


def config(name: str, split: str, path: str) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": split, "path": path}]}


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=8)


def make_published_mix(root: Path) -> list[HubState]:
    """Made-up rows under the names, in the files and in the layouts of the datasets that the profile names."""
    code, calls, thoughts, agents = (root / name for name in ("code", "calls", "thoughts", "agents"))
    readme(code)
    rows = [{"instruction": f"Do {i}.", "output": sentence(i)} for i in range(30)]
    (code / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    readme(calls, [config("dataset", "train", "xlam_function_calling_60k.json")], "cc-by-4.0")
    (calls / "xlam_function_calling_60k.json").write_text(json.dumps(function_calls()))
    subsets = ("all", "code", "math", "science")
    readme(thoughts, [config(name, "train", f"{name}/train-*") for name in subsets])
    for name in subsets:
        table(thoughts / name / "train-00000-of-00001.parquet", thinking(name))
    readme(agents, [config("default", split, f"data/{split}-*") for split in ("tool",)], "mit")
    rows = trajectories()
    table(agents / "data" / "tool-00000-of-00002.parquet", rows[:15])
    table(agents / "data" / "tool-00001-of-00002.parquet", rows[15:])
    table(agents / "data" / "xml-00000-of-00001.parquet", rows)
    return [
        HubState("theblackcat102/evol-codealpaca-v1", code, "dataset"),
        HubState("Salesforce/xlam-function-calling-60k", calls, "dataset"),
        HubState("open-r1/Mixture-of-Thoughts", thoughts, "dataset"),
        HubState("SWE-bench/SWE-smith-trajectories", agents, "dataset"),
    ]


@contextmanager
def hub_of(states: list[HubState], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HubState]]:
    with serve_repositories(*states), the_only_hub(states[0], cache, monkeypatch):
        yield states


@pytest.fixture
def mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HubState]]:
    with hub_of(make_published_mix(tmp_path / "hub"), tmp_path / "cache", monkeypatch) as states:
        yield states


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    folder = tmp_path / "set"
    readme(folder)
    table(folder / "data" / "train-00000-of-00001.parquet", [{"text": sentence(i)} for i in range(30)])
    with hub_of([HubState("lab/set", folder, "dataset")], tmp_path / "cache", monkeypatch) as (state,):
        yield state


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(DEMO)


def profile(samples: int = 6, **entry: Any) -> Calibration:
    return Calibration(texts=({"dataset": "lab/set", **entry},), samples=samples, length=32)


def test_the_pruners_published_mix(mix: list[HubState], tokenizer: Any) -> None:
    overrides = ["calibration.profile=reap", "calibration.samples=24", "calibration.length=48"]
    (recipe,) = load_recipes("nvfp4-gb10", overrides)
    drawn = token_batches(recipe.calibration, tokenizer)
    record = drawn.record
    assert drawn.ids.shape == (24, 48)
    assert len(record["domains"]) == 6
    assert {domain["samples"] for domain in record["domains"].values()} == {4}
    licenses = {name: text["license"] for name, text in record["files"].items()}
    assert licenses == {
        "theblackcat102/evol-codealpaca-v1:train": "apache-2.0",
        "Salesforce/xlam-function-calling-60k:train": "cc-by-4.0",
        "open-r1/Mixture-of-Thoughts:code:train": "apache-2.0",
        "open-r1/Mixture-of-Thoughts:math:train": "apache-2.0",
        "open-r1/Mixture-of-Thoughts:science:train": "apache-2.0",
        "SWE-bench/SWE-smith-trajectories:tool": "mit",
    }
    assert all(text["revision"] == "1" * 40 for text in record["files"].values())
    assert all(text["tokens"] == 4 * 48 for text in record["files"].values())
    files = record["files"]["SWE-bench/SWE-smith-trajectories:tool"]["files"]
    assert [name for name in files if "tool" in name] == list(files)
    text = tokenizer.decode(drawn.ids.flatten())
    for part in ("<think>", '{"name": "tides"', "You fix bugs.", "Do "):
        assert part in text
    sent = [name for state in mix for name in state.sent]
    assert not any("xml" in name or name.startswith("all/") for name in sent)


def test_the_commit_decides_what_is_stale_before_anything_is_downloaded(one: HubState) -> None:
    source = open_source(DEMO)
    first = calibration_inputs(source, profile())["texts"]
    assert first == {"lab/set:train": "1" * 40}
    assert one.sent == {}
    one.branches["main"] = "2" * 40
    assert calibration_inputs(source, profile())["texts"] == {"lab/set:train": "2" * 40}
    pinned = profile(revision="1" * 40)
    assert calibration_inputs(source, pinned)["texts"] == {f"lab/set:train@{'1' * 40}": "1" * 40}


def test_pinning_the_commit_that_was_used_draws_the_same_tokens(one: HubState, tokenizer: Any) -> None:
    free = token_batches(profile(), tokenizer)
    (used,) = free.record["files"].values()
    one.branches["main"] = "2" * 40
    one.commits["1" * 40] = one.folder
    one.branches["old"] = "1" * 40
    pinned = token_batches(profile(revision=used["revision"]), tokenizer)
    assert pinned.ids.tolist() == free.ids.tolist()


def test_without_a_network_the_cached_files_give_the_same_tokens(
    one: HubState, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = token_batches(profile(), tokenizer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    offline = token_batches(profile(), tokenizer)
    assert offline.record == online.record
    with pytest.raises(SixfoldError) as error:
        text_files(Calibration(texts=({"dataset": "lab/never-seen"},)).texts)
    assert str(error.value) == (
        "the Hub cannot be reached to look for a dataset of the name lab/never-seen;"
        " check the connection and HF_HUB_OFFLINE."
    )


def test_a_download_that_was_stopped_goes_on_with_what_is_missing(one: HubState, tokenizer: Any) -> None:
    data = one.folder / "data"
    table(data / "train-00001-of-00002.parquet", [{"text": sentence(i)} for i in range(30, 60)])
    one.refused = {"data/train-00001-of-00002.parquet"}
    with pytest.raises(SixfoldError, match=r"refused a request for lab/set with status 403; .* if the dataset is not"):
        token_batches(profile(), tokenizer)
    one.refused.clear()
    token_batches(profile(), tokenizer)
    sizes = {f"data/{path.name}": path.stat().st_size for path in data.iterdir()}
    assert {name: sent for name, sent in one.sent.items() if name in sizes} == sizes


def test_the_hubs_conversion_stands_in_for_formats_that_are_not_read(
    one: HubState, tokenizer: Any, tmp_path: Path
) -> None:
    converted = tmp_path / "converted"
    table(converted / "default" / "train" / "0000.parquet", [{"text": sentence(i)} for i in range(40, 70)])
    one.branches["refs/convert/parquet"] = "3" * 40
    one.commits["3" * 40] = converted
    record = token_batches(profile(revision="refs/convert/parquet"), tokenizer).record
    (text,) = record["files"].values()
    assert text["revision"] == "3" * 40
    assert list(text["files"]) == ["default/train/0000.parquet"]


def test_rows_that_cannot_be_used_are_passed_over_and_counted(one: HubState, tokenizer: Any) -> None:
    rows = [{"text": sentence(i) if i % 3 else None} for i in range(30)]
    table(one.folder / "data" / "train-00000-of-00001.parquet", rows)
    (text,) = token_batches(profile(samples=20), tokenizer).record["files"].values()
    assert 0 < text["unusable_rows"] <= 10
    with pytest.raises(
        SixfoldError,
        match=r"of the 9999 samples .* are asked for \(10 rows of lab/set:train could not be used: .*row \d+",
    ):
        token_batches(profile(samples=9999), tokenizer)


@pytest.mark.parametrize(
    ("dataset", "revision", "message"),
    [
        ("lab/none", "", "the Hub has no dataset lab/none; check the spelling, or if it is private log in with"),
        ("lab/set", "v9", "lab/set has no revision v9; give a branch, tag or commit that it has"),
    ],
)
def test_what_the_hub_does_not_have(one: HubState, dataset: str, revision: str, message: str) -> None:
    with pytest.raises(SixfoldError) as error:
        text_files(Calibration(texts=({"dataset": dataset, "revision": revision},)).texts)
    assert message in str(error.value)


def test_a_gated_dataset_names_the_page_with_its_terms(one: HubState, tokenizer: Any) -> None:
    one.gated = True
    with pytest.raises(SixfoldError) as error:
        token_batches(profile(), tokenizer)
    assert f"accept its terms on {one.endpoint}/datasets/lab/set and log in" in str(error.value)


def test_an_id_where_a_path_belongs_is_explained() -> None:
    with pytest.raises(SixfoldError, match=r"write \{dataset: lab/set\} if it is a dataset of the Hub"):
        text_files(Calibration(texts=("lab/set",)).texts)
