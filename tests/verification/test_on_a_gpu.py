"""Weights are compared, and rounded plainly, where they are: on a GPU, one that is pretended here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from tests.pretended_device import Pretended, pretended
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import tensors
from tests.verification.damage import EXPERT, copy_folder
from verification.divergence.expert_inputs import experts_at_once
from verification.divergence.plain_run import PlainWeights
from verification.divergence.reading_ahead import Ahead
from verification.divergence.walk import Lane, Run, walk
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


@pytest.mark.parametrize("variant", ["fp8", "bf16"])
def test_damage_is_named_there_as_well(variant: str, artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    folder, name = copy_folder(artifacts[variant], tmp_path / "damaged"), EXPERT.format(1, 3, "w2") + "weight"
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
    experts = experts_at_once(lambda parameter: None)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda where: SimpleNamespace(total_memory=10**9))
    with pretended() as device:
        answering = Answering(HeldSource(demo, device), tokenizer, tmp_path / "there", experts)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda where: (10**9, 10**9))
        found = smoke(answering, weights, unseen)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda where: (10**6, 10**9))
        too_large = smoke(answering, weights, unseen)
    here = Answering(HeldSource(demo, torch.device("cpu")), tokenizer, tmp_path, experts)
    assert found == smoke(here, weights, unseen)
    assert too_large.not_run == "it takes the whole model in float32: 23 MB of GPU memory, 1 MB are free"


@pytest.mark.parametrize(
    ("share", "layers"), [(1.0, 4), (0.0, 4), (1.0, 10**6)], ids=["kept there", "kept here", "one after the other"]
)
def test_hidden_states_are_what_they_are_on_the_cpu(
    share: float, layers: int, artifacts: Artifacts, demo: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between layers they stay on the GPU, where they are a small part of its memory; and no layer is read while
    another is run, where so many do not fit there."""
    held = held_out(load_tokenizer(demo.checkpoint.folder))
    windows = Windows((held.ids[0][:40], held.ids[-1][:30]), (held.domains[0], held.domains[-1]), "two")
    weights, runs = runs_of(artifacts["gguf-q4_k_m"], demo)
    going = [Run(), *(Run(weights, rules) for rules in runs.values())]
    seen: list[list[tuple[int, int, torch.Tensor]]] = [[], []]
    expected = walk(demo, going, windows, lambda *found: seen[0].append(found), unseen, "")
    kept: list[type] = []
    order: list[str] = []
    move = Lane.move

    def moved(lane: Lane, *layer: Any) -> None:
        order.append("run")
        move(lane, *layer)
        kept.extend(map(type, lane.hidden))

    monkeypatch.setattr(Lane, "move", moved)
    monkeypatch.setattr("torch.inference_mode", lambda mode=True: torch.no_grad())  # no pretended one can be there
    monkeypatch.setattr("verification.divergence.walk._SHARE_OF_GPU", share)
    monkeypatch.setattr("verification.divergence.walk._AHEAD", layers)
    submit = Ahead.submit

    def read(ahead: Ahead, *work: Any) -> Any:
        order.append("read")
        return submit(ahead, *work)

    monkeypatch.setattr(Ahead, "submit", read)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda where: (10**9, 10**9))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda where: SimpleNamespace(total_memory=10**9))
    with pretended() as device:
        monkeypatch.setattr("verification.divergence.walk.device", lambda: device)
        found = walk(demo, going, windows, lambda *found: seen[1].append(found), unseen, "")
        states = [lane.states.cpu() for lane in found]
    assert [lane.failed for lane in found] == [None] * len(going)
    assert set(kept) == {Pretended if share else torch.Tensor}
    assert order[:2] == (["read", "read"] if layers == 4 else ["read", "run"])
    for there, lane in zip(states, expected, strict=True):
        torch.testing.assert_close(there, lane.states, rtol=1e-3, atol=1e-4)
    assert [of[:2] for of in seen[1]] == [of[:2] for of in seen[0]]
    for (*_, there), (*_, here) in zip(seen[1], seen[0], strict=True):
        assert type(there) is torch.Tensor
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
