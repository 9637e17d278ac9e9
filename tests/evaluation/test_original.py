"""What a pruned model and its variants are compared with besides their baseline: the model before it was pruned."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.commands.evaluate import compared_with
from evaluation.result import BASELINE, ORIGINAL, with_compared
from evaluation.subject import subject_at
from tests.pruning.made import DEMO, pruned


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole/ and small/, which was pruned from it, and artifacts/small with one variant of that."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(DEMO, root / "whole")
    pruned(root / "whole", root / "small")
    variant = root / "artifacts" / "small" / "small-FP8"
    variant.mkdir(parents=True)
    (variant / "config.json").write_text("{}")
    manifest = {"variant": "fp8", "recipe": {"name": "fp8"}, "source": {"fingerprint": ""}, "versions": {}, "files": {}}
    (variant / "manifest.json").write_text(json.dumps(manifest))
    (variant.parent / "source").mkdir()
    (variant.parent / "source" / "place.json").write_text(json.dumps({"folder": str(root / "small")}))
    return root


@pytest.mark.parametrize("evaluated", ["small", "artifacts/small/small-FP8"])
def test_the_original_is_found_where_it_was_evaluated(evaluated: str, models: Path) -> None:
    subject, result = subject_at(models / evaluated), models / "whole" / "evaluation.json"
    result.unlink(missing_ok=True)
    assert compared_with(subject, None) == {BASELINE: None, ORIGINAL: None}
    stated = {"artifact": {"name": "whole", "content": subject_at(models / "whole").content}}
    result.write_text(json.dumps(stated))
    assert compared_with(subject, None)[ORIGINAL] == stated
    result.write_text(json.dumps({"artifact": {"name": "whole", "content": "of other weights"}}))
    assert compared_with(subject, None)[ORIGINAL] is None


def test_a_model_that_was_not_pruned_has_none(models: Path) -> None:
    assert compared_with(subject_at(models / "whole"), None)[ORIGINAL] is None


def test_it_stands_beside_the_baseline() -> None:
    def answers(name: str, *outcomes: str) -> dict[str, Any]:
        passed = outcomes.count("passed")
        test = {
            "name": "HumanEval", "asked": "the same", "engine": {}, "answers": len(outcomes), "passed": passed,
            "truncated": 0, "completed": {}, "outcomes": {f"HumanEval/{n}": o for n, o in enumerate(outcomes)},
        }  # fmt: skip
        return {"artifact": {"name": name}, "benchmarks": [test], "endings": None}

    mine = answers("variant", "passed", "wrong", "wrong")
    found = with_compared(mine, answers("pruned", "wrong", "wrong", "wrong"), BASELINE)
    found = with_compared(found, answers("original", "passed", "passed", "passed"), ORIGINAL)
    (test,) = found["benchmarks"]
    assert (test["baseline"]["name"], test["baseline"]["gained"]) == ("pruned", ["HumanEval/0"])
    assert (test["original"]["name"], test["original"]["lost"]) == ("original", ["HumanEval/1", "HumanEval/2"])
