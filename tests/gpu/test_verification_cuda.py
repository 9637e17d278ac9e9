"""A GPU comes to the verdicts of the processor: what is compared and run there, read ahead on a stream of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from tests.exporters.exported import DEMO
from tests.verification.artifacts import make_all
from verification.judge import judge_all
from verification.result import Verification

pytestmark = pytest.mark.gpu

VARIANTS = ("fp8", "nvfp4", "nvfp4-gb10", "awq", "bf16", "gguf-q4_k_m")


def some_windows(tokenizer: Any) -> Windows:
    """Of different lengths: two batches, one of few tokens for each expert."""
    found = held_out(tokenizer)
    return Windows((*found.ids[:4], found.ids[-1]), (*found.domains[:4], found.domains[-1]), "some")


def test_verdicts_are_those_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, source = make_all(DEMO, tmp_path, VARIANTS), open_source(DEMO)
    monkeypatch.setattr("verification.measure.held_out", some_windows)

    def judged(where: str) -> list[Verification]:
        monkeypatch.setattr("verification.measure.cache_of", lambda path: tmp_path / where)
        return judge_all([made[name] for name in VARIANTS], source, unseen)

    there = judged("there")
    for module in ("judge", "divergence.walk", "divergence.comparison", "divergence.plain_run"):
        monkeypatch.setattr(f"verification.{module}.device", lambda: torch.device("cpu"))
    for found, expected in zip(there, judged("here"), strict=True):
        assert (found.passed, found.findings) == (expected.passed, expected.findings)
        assert found.divergence is not None
        assert expected.divergence is not None
        for name, score in expected.divergence.scores.items():
            # Inputs whose last bits differ may be rounded to the next number, and so go to another expert.
            off = 0.01 if name == "weights" else 0.05
            assert found.divergence.scores[name].mean_kl == pytest.approx(score.mean_kl, rel=off, abs=1e-7)
        plain, of_cpu = found.divergence.plain, expected.divergence.plain
        assert (plain is None) == (of_cpu is None)
        assert plain is None or of_cpu is None or plain.mean_kl == pytest.approx(of_cpu.mean_kl, rel=0.05, abs=1e-7)
