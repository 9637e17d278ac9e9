"""Variants shared out among processes have the verdicts that they have side by side in one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.runner.engine import Needs
from tests.few_windows import few_windows
from tests.verification.artifacts import Artifacts
from verification.judge import judge_all
from verification.on_gpus import _nth_gpu, judged_on_gpus, shared_out
from verification.result import Verification


def test_verdicts_are_those_of_one_process(
    artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank after the other, in this process, over a few windows."""

    def in_turn(work: Callable[[int, str, Any], None], given: Any, size: int, needs: Needs) -> None:
        for rank in range(size):
            work(rank, "", given)

    # What is kept beside the shared artifacts is of all windows; processes of their own would not see the few.
    monkeypatch.setattr("verification.measure.cache_of", lambda path: tmp_path)
    monkeypatch.setattr("verification.on_gpus.HERE.together", in_turn)
    with few_windows("verification.measure.held_out"):
        _compare([artifacts[name] for name in ("bf16", "fp8")], demo)


@pytest.mark.engines
def test_two_processes_find_what_one_does(artifacts: Artifacts, demo: Source) -> None:
    _compare([artifacts[name] for name in ("fp8", "gguf-q8_0", "bf16")], demo)


def _compare(paths: list[Path], source: Source) -> None:
    together, apart = judge_all(paths, source, unseen), judged_on_gpus(paths, source, unseen, 2)
    assert [_timeless(one) for one in apart] == [_timeless(one) for one in together]
    assert all(one.divergence is not None for one in apart)


def _timeless(found: Verification) -> Verification:
    return replace(found, seconds=0.0)


def test_shares_have_about_as_many_runs_and_none_is_empty() -> None:
    runs = {Path(name): count for name, count in {"a": 3, "b": 3, "c": 1, "d": 2, "e": 0}.items()}
    assert [[path.name for path in share] for share in shared_out(runs, 2)] == [["a", "d"], ["b", "c", "e"]]
    assert shared_out({Path("a"): 3}, 4) == [[Path("a")]]


@pytest.mark.parametrize(("seen", "expected"), [(None, "1"), ("3, 5", "5"), ("GPU-aa,GPU-bb", "GPU-bb")])
def test_gpus_are_those_that_may_be_seen(seen: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert _nth_gpu(1) == expected
