"""A matrix that is looked at in pieces gives what it gives whole, and damage in any piece of it is named."""

from pathlib import Path

import numpy as np
import pytest

from sixfold.model.source import Source
from sixfold.progress import unseen
from tests.verification.artifacts import Artifacts
from tests.verification.damage import copy_gguf, rewrite_gguf
from verification.verify import verify
from verification.weights import pieces, weight_check

HEAD, ROW = "lm_head.weight", 1900


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 128 rows of the bundled model."""
    monkeypatch.setattr(pieces, "LARGE", 1 << 15)
    monkeypatch.setattr(weight_check, "LARGE", 1 << 15)


@pytest.mark.parametrize("variant", ["gguf-q6_k", "gguf-q8_0"])
def test_it_errs_as_it_does_whole(
    variant: str, artifacts: Artifacts, demo: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verify(artifacts[variant], demo, unseen)
    monkeypatch.undo()
    whole = verify(artifacts[variant], demo, unseen)
    assert found.findings == whole.findings == ()
    assert found.errors is not None
    assert whole.errors is not None
    for one, other in zip(found.errors, whole.errors, strict=True):
        assert one.relative == pytest.approx(other.relative, rel=1e-4)
        assert one.block == pytest.approx(other.block, rel=1e-6)


def test_a_flipped_code_in_a_late_row_is_named(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    path = copy_gguf(artifacts["gguf-q8_0"], tmp_path / artifacts["gguf-q8_0"].name)

    def flip(data: dict[str, tuple[np.ndarray, object]]) -> None:
        data["output.weight"][0][ROW, 20] ^= 32

    rewrite_gguf(path, tensors=flip)  # type: ignore[arg-type]
    (failure,) = (finding for finding in verify(path, demo, unseen).failures if finding.where == HEAD)
    assert f"row {ROW}" in failure.what
