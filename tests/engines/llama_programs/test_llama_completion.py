"""The smoke test's answers from llama.cpp itself are those of transformers with the same weights."""

import sys
from pathlib import Path

import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO, silent
from tests.exporters.ggml.gguf_tools import export, random_statistics, recipe
from verification.divergence.expert_inputs import experts_at_once
from verification.measure import runs_of
from verification.reading.held_source import HeldSource
from verification.smoke.smoke_test import READER, Answering, Smoke, smoke

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture
def gguf(scheme: str, demo: Source, llama_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo in a scheme that the test names, with llama.cpp's programs at hand."""
    monkeypatch.setenv("SIXFOLD_LLAMA_CPP", str(llama_tools))
    return export(demo, recipe(scheme), tmp_path / "out", random_statistics(demo, tmp_path / "statistics"))[1]


def answers(demo: Source, gguf: Path, cache: Path, *, by_llama: bool) -> Smoke:
    weights, _ = runs_of(gguf, demo)
    answering = Answering(
        HeldSource(demo, torch.device("cpu")), load_tokenizer(DEMO), cache, experts_at_once(lambda _: None)
    )
    return smoke(answering, weights, silent, gguf if by_llama else None)


@pytest.mark.parametrize("scheme", ["F32", "BF16"])
def test_greedy_answers_are_the_same(scheme: str, demo: Source, gguf: Path, tmp_path: Path) -> None:
    """The source's own weights; BF16 has llama.cpp round inputs, which may tip a token of a sentence."""
    found = answers(demo, gguf, tmp_path / "cache", by_llama=True)
    assert found.engine.startswith("llama-completion ")
    assert found.failed == ""
    assert not list(found.findings)
    same = [s.answer.text == s.expected.text for s in found.prompts]
    sys.stdout.write(f"\n{found.engine}, {scheme}: {sum(same)} of {len(same)} answers are transformers', whole\n")
    assert all(same) if scheme == "F32" else sum(same) >= 3


@pytest.mark.parametrize("scheme", ["Q8_0", "Q6_K", "Q4_K_M", "IQ4_XS", "Q3_K_M"])
def test_every_format_generates(scheme: str, demo: Source, gguf: Path, tmp_path: Path) -> None:
    """With weights alone, transformers begins most answers as llama.cpp does; a token may be nearly tied."""
    found = answers(demo, gguf, tmp_path / "cache", by_llama=True)
    ours = answers(demo, gguf, tmp_path / "cache", by_llama=False)
    assert (found.failed, ours.engine) == ("", READER)
    pairs = [(s.answer.text, o.answer.text) for s, o in zip(found.prompts, ours.prompts, strict=True)]
    assert all(text.strip() for text, _ in pairs)
    begun = [text[:8] == other[:8] for text, other in pairs]
    alike = sum(text == other for text, other in pairs)
    sys.stdout.write(f"\n{scheme}: {sum(begun)} of {len(begun)} answers begin alike; {alike} are the same\n")
    assert sum(begun) >= 3
