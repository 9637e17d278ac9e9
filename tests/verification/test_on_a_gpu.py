"""Weights are compared, and rounded plainly, where they are: on a GPU, one that is pretended here."""

from pathlib import Path

import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source
from sixfold.progress import unseen
from tests.pretended_device import Pretended, pretended
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import tensors
from tests.verification.damage import EXPERT, copy_folder
from verification.divergence.plain_run import PlainWeights
from verification.measure import runs_of
from verification.reading.held_source import HeldSource
from verification.smoke.smoke_test import Answering, smoke
from verification.verify import opened, verify, with_weights
from verification.weights.compared_weights import ComparedWeights

LAYER = 1


@pytest.mark.parametrize("variant", ["bf16", "fp8-block", "nvfp4-modelopt", "awq", "gguf-q4_k_m", "gguf-iq4_xs"])
def test_what_is_read_stays_there_and_shows_what_the_cpu_does(variant: str, artifacts: Artifacts, demo: Source) -> None:
    with pretended() as device:
        held = HeldSource(demo, device)
        artifact = opened(artifacts[variant], held)
        assert artifact.weights is not None
        assert artifact.comparison is not None
        weights, plain = (
            ComparedWeights(artifact.weights, held, artifact.comparison),
            PlainWeights(artifact.weights, held),
        )
        names = held.layers[LAYER]
        for each in (weights, plain):
            each.prepare(LAYER, names)
            assert all(isinstance(each.read_on(device, name), Pretended) for name in names)
        found = with_weights(artifact, unseen)
    expected = verify(artifacts[variant], demo, unseen)
    assert (found.findings, found.errors) == (expected.findings, expected.errors)


def test_damage_is_named_there_as_well(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    folder, name = copy_folder(artifacts["fp8"], tmp_path / "damaged"), EXPERT.format(1, 3, "w2") + "weight"
    tensors(lambda found: found[name].view(torch.uint8)[5, 7].bitwise_xor_(0x10))(folder)
    with pretended() as device:
        found = with_weights(opened(folder, HeldSource(demo, device)), unseen)
    assert {finding.where for finding in found.failures} == {name}


@pytest.mark.parametrize("variant", ["nvfp4", "gguf-q4_k_m"])
def test_prompts_are_answered_there(
    variant: str, artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole model on the GPU, as on the CPU; and where it has too little memory for that, not at all."""
    monkeypatch.setattr("verification.smoke.smoke_test.TOKENS", 3)
    tokenizer, (weights, _) = load_tokenizer(demo.checkpoint.folder), runs_of(artifacts[variant], demo)
    with pretended() as device:
        answering = Answering(HeldSource(demo, device), tokenizer, tmp_path / "there")
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda where: (10**9, 10**9))
        found = smoke(answering, weights, unseen)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda where: (10**6, 10**9))
        too_large = smoke(answering, weights, unseen)
    assert found == smoke(Answering(HeldSource(demo, torch.device("cpu")), tokenizer, tmp_path), weights, unseen)
    assert too_large.not_run == "it takes the whole model in float32: 23 MB of GPU memory, 1 MB are free"
