"""A small model whose stages are run to measure a machine."""

from pathlib import Path
from typing import Any

import pytest

from cli.options import load_formats
from cli.overhead import overhead
from cli.results.forecast import CARDS
from cli.results.verdicts import artifact_of
from cli.small_job import small_job
from cli.small_model import Shape, small_model
from exporters.export.run import export
from exporters.export.speed import FACTOR, rounding_speed
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.progress import unseen
from sixfold.runner.machine_speed import measure
from verification.stored_result import judged_all
from verification.verify import verify


def test_its_tokens_are_bytes_and_its_experts_of_the_shape_asked_for(tmp_path: Path) -> None:
    source = small_model(tmp_path / "model", Shape(256, 512, 3))
    tokenizer = load_tokenizer(source.checkpoint.folder)
    assert len(tokenizer("né")["input_ids"]) == 3
    experts = [li for li in source.architecture.linears if li.expert is not None]
    assert {(li.in_features, li.out_features) for li in experts} == {(256, 512), (512, 256)}
    assert len(experts) == 3 * 3


def test_its_gguf_files_are_sound_so_that_they_are_run(tmp_path: Path) -> None:
    source = small_model(tmp_path / "model", Shape(256, 256, 2))
    recipes = load_formats(("gguf-q8_0",), ())
    made = export(source, recipes[0], Workspace(tmp_path / "out", "model"), None, threads=1, progress=unseen)
    assert not verify(artifact_of(made.folder, made.manifest), source, unseen).failures


@pytest.mark.bench
def test_every_type_of_a_shipped_recipe_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(tmp_path)
    assert set(job.start) == {"calibration", "export", "verification", CARDS}
    assert set(job.verifying) - {"copy"} == set(rounding_speed()) - {FACTOR, "Q5_K", "Q5_K+"}
    assert all(min(of.compare, of.decode, of.plain) > 0 for of in job.verifying.values())
    assert set(job.running) == {"", "fp8", "nvfp4", "gguf"}
    assert min(job.process, job.held, job.answers, job.damped, job.running[""]) > 0
    judged: list[dict[str, Any]] = []

    def judging(*given: Any) -> list[dict[str, Any]]:
        judged[:] = judged_all(*given)
        return judged

    monkeypatch.setattr("cli.overhead.judged_all", judging)  # what is found is nowhere kept
    speed = measure(tmp_path, rounding_speed(), job)
    found = overhead(tmp_path, speed)
    assert set(found) == {"export", "verification"}
    assert all(1 <= of < 5 for of in found.values())
    assert len(judged) == 10
    assert all(one["divergence"] for one in judged)  # only what is sound is run
    assert not list(tmp_path.iterdir())
