"""What a pruned checkpoint's variants have lost since the original, against the original run as a whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sixfold.artifact.original_model import original_at_hand
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.runner.whole_model import load_model
from sixfold.texts.held_out_text import Windows, held_out
from tests.pruning.made import DEMO, pruned, silent
from verification.divergence.divergence import Score, reference_of, scored
from verification.divergence.unpruned import unpruned_run
from verification.reading.weights import FolderWeights
from verification.structure.folder_structure import open_subject

pytestmark = pytest.mark.arithmetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint whose original lies elsewhere: run.json says where."""
    root = tmp_path_factory.mktemp("pruned")
    shutil.copytree(DEMO, root / "elsewhere" / "whole")
    pruned(root / "elsewhere" / "whole", root / "small")
    return root / "small"


@pytest.fixture(scope="module")
def windows() -> Windows:
    found = held_out(load_tokenizer(DEMO))
    return Windows(found.ids[:2], found.domains[:2], "two")


def since_original(source: Source, windows: Windows, cache: Path) -> Score | None:
    """Of the pruned weights themselves, in the place of a variant's."""
    unpruned = unpruned_run(source, windows, cache, silent)
    reference = reference_of(source, windows, cache, silent)
    weights = FolderWeights(open_subject(source.checkpoint.folder, source))
    before = None if unpruned is None else unpruned.run
    return scored(source, weights, {}, windows, reference, silent, before).original


def test_it_is_measured_from_the_unpruned_model(folder: Path, windows: Windows, tmp_path: Path) -> None:
    found = since_original(open_source(folder), windows, tmp_path)
    assert found is not None
    cpu = torch.device("cpu")
    before, after = (load_model(open_source(f), dtype=torch.float32, device=cpu) for f in (DEMO, folder))
    kl, same = 0.0, 0
    for ids in windows.ids:
        with torch.inference_mode():
            p, q = (m(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1) for m in (before, after))
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
    assert found.mean_kl == pytest.approx(kl / windows.tokens, rel=1e-4)
    assert found.mean_kl > 0.1
    assert found.top1 == pytest.approx(same / windows.tokens, abs=1.5 / windows.tokens)
    assert len(found.layers) == 2
    assert found.layers[0] > 0.01


def test_its_run_serves_when_it_is_gone(folder: Path, windows: Windows, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    source = open_source(copy)
    first = since_original(source, windows, tmp_path / "cache")
    (copy / "run.json").unlink()
    assert original_at_hand(copy) is None
    assert since_original(source, windows, tmp_path / "cache") == first
    assert since_original(source, windows, tmp_path / "none") is None


def test_what_is_not_the_original_any_more_is_none(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "copies"
    shutil.copytree(folder, root / "small")
    shutil.copytree(DEMO, root / "minimax-m2-4.6m")
    (root / "small" / "run.json").unlink()
    found = original_at_hand(root / "small")
    assert found is not None  # under its name, beside the pruned folder
    assert found.checkpoint.folder == root / "minimax-m2-4.6m"
    config = json.loads((root / "minimax-m2-4.6m" / "config.json").read_text())
    (root / "minimax-m2-4.6m" / "config.json").write_text(json.dumps({**config, "rope_theta": 20000.0}))
    assert original_at_hand(root / "small") is None
    assert original_at_hand(DEMO) is None
