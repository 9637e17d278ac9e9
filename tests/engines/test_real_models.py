"""All ten formats of a real, trained model are sound, with and without their source, and hold their gates.

Prints the table (pytest -s). Most of the time goes into exports, whose errors are compensated, and three runs of the
model for each format.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.verdicts import Row, print_verdicts, rows_in
from sixfold.artifact.verification_record import verdict_of
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from tests.engines.llama_cpp_tools import Unavailable
from tests.engines.real_models import GEMMA3, SMOLLM2, Packaged, bf16_folder
from verification.stored_result import judged
from verification.verify import verify

pytestmark = pytest.mark.engines

FORMATS = {
    SMOLLM2: ("all-formats",),
    GEMMA3: ("bf16", "fp8", "nvfp4"),
}
"""What each model can be made into; of Gemma's architecture no GGUF layout is known."""

EVERY = 16
"""Of the held-out windows, every so many are read. They stay as long as they are: over windows of 32 tokens two ways to
round SmolLM2 to the nearest FP8 already differ by more than the gate allows."""


@pytest.mark.parametrize("model", FORMATS, ids=lambda model: model.name)
def test_every_format_is_sound(model: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        folder = bf16_folder(model)
    except Unavailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr("verification.measure.held_out", _some)
    options = ("--out", str(tmp_path), "--no-verify", "--license", model.license)
    assert run(["export", str(folder), *FORMATS[model], *options]) == 0
    source = open_source(folder)
    rows = [_row(source, *made) for made in rows_in(tmp_path / source.checkpoint.name)]
    sys.stdout.write("\n")
    print_verdicts(rows)
    assert len(rows) == (10 if model is SMOLLM2 else len(FORMATS[model]))
    for row in rows:
        assert row.verdict.failures == (), row.variant
        assert row.verdict.as_run is not None
        assert row.verdict.as_run["perplexity"] < 1.5 * row.verdict.as_run["source_perplexity"]


def _some(tokenizer: Any) -> Windows:
    whole = held_out(tokenizer)
    return Windows(whole.ids[::EVERY], whole.domains[::EVERY], f"{whole.digest}/{EVERY}")


def _row(source: Source, variant: str, path: Path, nbytes: int) -> Row:
    alone = verify(path, None, unseen)
    assert alone.failures == (), variant
    return Row(variant, path, nbytes, verdict_of(judged(path, source, unseen)))
