"""Whatever is done to a folder is found, and the right tensor, file or key is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sixfold.model.source import Source
from tests.exporters.exported import DEMO, silent
from tests.verification.artifacts import Artifacts
from tests.verification.corpus import CORPUS
from tests.verification.corpus.changes import Damage, tensors
from tests.verification.damage import copy_folder
from verification.verify import verify


def named(path: Path, source: Source | None) -> list[str]:
    return [finding.where for finding in verify(path, source, silent).failures]


@pytest.mark.parametrize("damage", CORPUS, ids=lambda damage: f"{damage.variant}-{damage.name}".replace(" ", "-"))
def test_damage_is_named(damage: Damage, artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    folder = copy_folder(artifacts[damage.variant], tmp_path / "damaged")
    damage.do(folder)
    if damage.alone:
        assert any(damage.where in where for where in named(folder, None))
    assert any(damage.where in where for where in named(folder, demo))


@pytest.mark.parametrize("kind", ["block_sparse_moe.gate", "input_layernorm"])
def test_smoothing_that_does_not_cancel_is_found(kind: str, artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    """AWQ scales norms and all that reads them; one of them as the source has it computes something else."""
    folder = copy_folder(artifacts["awq"], tmp_path / "damaged")
    original, held = load_file(DEMO / "model.safetensors"), load_file(folder / "model.safetensors")
    name = next(n for n in original if f"{kind}.weight" in n and not torch.equal(original[n], held[n]))
    tensors(lambda found: found.__setitem__(name, original[name]))(folder)
    findings = verify(folder, demo, silent).failures
    assert [(finding.check, finding.where) for finding in findings] == [("smoothing.not-canceled", name)]
