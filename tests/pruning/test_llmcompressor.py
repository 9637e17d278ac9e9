"""llmcompressor's own REAP on the same tokens."""

import json
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.core import reset_session
from llmcompressor.modifiers.pruning.reap import REAPPruningModifier

from calibration.calibrate import calibrate
from calibration.texts.tokens import token_batches
from pruning.anatomy import dissect
from pruning.choosing.counts import kept_for_ratio
from pruning.choosing.make_plan import Request, make_plan
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.whole_model import load_model
from tests.pruning.made import DEMO, silent

PROFILE = Calibration(samples=8, length=128, sample_rows=8)


def test_the_same_experts_stay_in_the_first_layer(tmp_path: Path) -> None:
    """It prunes a layer before the next one sees a token, so only the first layer's inputs are the same in both."""
    source, tokenizer = open_source(DEMO), load_tokenizer(DEMO)
    ids = token_batches(PROFILE, tokenizer).ids
    report = tmp_path / "report.json"
    model = load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    model.config._name_or_path = model.name_or_path = str(DEMO)  # where it looks for a config
    try:
        oneshot(
            model=model,
            tokenizer=tokenizer,
            dataset=Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()}),
            recipe=[REAPPruningModifier(sparsity=0.25, report_path=str(report))],
            max_seq_length=PROFILE.length,
            num_calibration_samples=PROFILE.samples,
            shuffle_calibration_samples=False,
            moe_calibrate_all_experts=False,
        )
    finally:
        reset_session()
    theirs = json.loads(report.read_text())
    statistics = calibrate(source, PROFILE, tmp_path / "statistics", progress=silent).statistics
    anatomy = dissect(source)
    ours = make_plan(source, anatomy, Request(kept_for_ratio(anatomy, 0.25), 0.25, "reap"), statistics)
    assert list(ours.kept[0]) == theirs["model.layers.0.mlp"]
    assert {len(kept) for kept in theirs.values()} == set(ours.counts.values())
