"""Batches side by side on several cores, against one after the other."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows
from tests import every_family
from tests.verification.artifacts import Artifacts
from verification.divergence.cores import on_cores
from verification.divergence.walk import Lane, Run, walk
from verification.measure import runs_of

pytestmark = pytest.mark.arithmetic

CORES = 3


def windows_of(source: Source, lengths: tuple[int, ...]) -> Windows:
    vocabulary = min(256, source.checkpoint.config.get("vocab_size", 256))
    random = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(0, vocabulary, (length,), generator=random) for length in lengths)
    return Windows(ids, ("any",) * len(lengths), "random")


def walked(source: Source, runs: list[Run], windows: Windows, cores: int) -> list[Lane]:
    with torch_threads(cores):
        return walk(source, runs, windows, lambda *_: None, unseen, "")


def test_each_part_has_a_thread_that_computes_by_itself() -> None:
    begun = threading.Barrier(2, timeout=60)

    def part() -> tuple[int, bool]:
        begun.wait()
        return torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch_threads(5):
        assert on_cores([part, part]) == [(2, True)] * 2
        assert torch.get_num_threads() == 5


def test_what_a_part_raises_is_raised() -> None:
    def refuse() -> None:
        raise ValueError("too wide")

    with torch_threads(2), pytest.raises(ValueError, match="too wide"):
        on_cores([lambda: None, refuse])


@pytest.mark.parametrize("variant", ["nvfp4-gb10", "fp8", "gguf-q4_k_m"])
def test_runs_end_where_they_do_on_one_core(variant: str, artifacts: Artifacts, demo: Source) -> None:
    weights, rules = runs_of(artifacts[variant], demo)
    windows = windows_of(demo, (70, 60, 50, 40, 30, 20, 10))
    runs = [Run(weights, rule) for rule in rules.values()]
    for one, several in zip(*(walked(demo, runs, windows, cores) for cores in (1, CORES)), strict=True):
        assert torch.equal(one.states, several.states)  # each batch by the same operations
        assert bool(one.roundings) == (len(several.roundings) == CORES)
        assert several.moved_inputs == pytest.approx(one.moved_inputs)  # sums of batches in another order


@pytest.mark.parametrize("family", ["qwen3_5_moe", "deepseek_v3", "falcon_h1"])
def test_families_keep_nothing_between_batches(family: str, tmp_path: Path) -> None:
    """Delta nets, latents, state spaces: a batch that read what another left would differ by its own size."""
    source = open_source(every_family.make_family(family, tmp_path))
    windows = windows_of(source, (40, 30, 20, 10))
    (one,), (several,) = (walked(source, [Run()], windows, cores) for cores in (1, CORES))
    assert one.group.runner.keeps_nothing
    assert torch.equal(one.states, several.states)


def test_what_layers_hand_on_is_handed_on_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def counted(parts: Sequence[Callable[[], None]]) -> list[None]:
        numbers.append(len(parts))
        return on_cores(parts)

    # Several threads would end where one does, but for the batches that they happen to disturb.
    monkeypatch.setattr("verification.divergence.walk.on_cores", counted)
    source = open_source(every_family.make_family("gemma3n_text", tmp_path, num_kv_shared_layers=1))
    (lane,) = walked(source, [Run()], windows_of(source, (40, 30, 20, 10)), CORES)
    assert lane.failed is None
    assert set(numbers) == {1}
