"""All formats of real, trained models are sound, with and without their source, and hold their gates.

Prints the table of docs/real-models.md (pytest -s). Most of the time goes into exports, whose errors are compensated.
"""

import sys

import pytest

from benchmarks.quality.real_models import measured, section
from cli.results.verdicts import rows_in
from sixfold.artifact.verification_record import verdict_of
from sixfold.progress import unseen
from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.real_models import ARTIFACTS, GEMMA3, SMOLLM2, Packaged, bf16_folder
from verification.verify import verify

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3], ids=lambda model: model.name)
def test_every_format_is_sound(model: Packaged) -> None:
    try:
        folder = bf16_folder(model)
    except Unavailable as reason:
        pytest.skip(str(reason))
    results = measured(folder, model.license, ARTIFACTS, afresh=True)
    sys.stdout.write("\n".join(section(model.name, results)) + "\n")
    assert len(results) == 10
    for variant, (result, _) in results.items():
        verdict = verdict_of(result)
        assert verdict.failures == (), variant
        assert verdict.as_run is not None
        assert verdict.as_run["perplexity"] < 1.5 * verdict.as_run["source_perplexity"]
    for variant, path, _ in rows_in(ARTIFACTS / folder.name):
        assert verify(path, None, unseen).failures == (), variant
