"""Several artifacts judged together: each has a verdict of its own."""

from pathlib import Path
from typing import Any

import pytest

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from tests.verification.artifacts import Artifacts
from verification.divergence.plain_run import PlainWeights
from verification.judge import judge_all
from verification.smoke.smoke_test import Smoke


def one_window(tokenizer: Any) -> Windows:
    found = held_out(tokenizer)
    return Windows(found.ids[-1:], found.domains[-1:], "one")


def test_what_stops_one_does_not_cost_the_others(
    artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smoke(*arguments: Any) -> Smoke:
        if arguments[-1] is not None:  # a GGUF file
            raise SixfoldError("the whole model does not fit", "use a larger machine")
        return Smoke(())

    monkeypatch.setattr("verification.measure.held_out", one_window)
    monkeypatch.setattr("verification.measure.cache_of", lambda path: tmp_path)
    monkeypatch.setattr("verification.measure.smoke", smoke)
    measured, stopped, exact = judge_all([artifacts[n] for n in ("fp8", "gguf-q8_0", "bf16")], demo, unseen)
    assert measured.divergence is not None
    assert 0 < measured.divergence.scores["weights"].mean_kl < measured.divergence.as_run.mean_kl
    assert exact.divergence is not None
    assert exact.divergence.as_run.mean_kl == 0
    assert set(exact.divergence.as_run.layers) == {0.0}
    assert stopped.divergence is None
    (failure,) = stopped.failures
    assert failure.check == "divergence.not-measured"
    assert "the whole model does not fit" in failure.what


def test_weights_that_are_rounded_alike_are_rounded_once(
    artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVFP4 with and without rounded inputs: each has the plain score that it has by itself."""
    monkeypatch.setattr("verification.measure.held_out", one_window)
    monkeypatch.setattr("verification.measure.smoke", lambda *arguments: Smoke(()))
    prepare, prepared = PlainWeights.prepare, []

    def counted(self: PlainWeights, layer: int | None, wanted: Any) -> None:
        prepared.append(layer)
        prepare(self, layer, wanted)

    monkeypatch.setattr(PlainWeights, "prepare", counted)

    def plain(*names: str) -> list[Any]:
        monkeypatch.setattr("verification.measure.cache_of", lambda path: tmp_path / "-".join(names))
        found = judge_all([artifacts[name] for name in names], demo, unseen)
        return [one.divergence and one.divergence.plain for one in found]

    together = plain("nvfp4", "nvfp4-gb10")
    assert prepared == [None, *range(demo.architecture.layers)]
    assert together == [*plain("nvfp4"), *plain("nvfp4-gb10")]
    assert together[0].mean_kl < together[1].mean_kl
