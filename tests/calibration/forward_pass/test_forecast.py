"""Seconds that are foretold of a pass, against products counted by hand."""

from pathlib import Path

import pytest

from calibration.forward_pass.forecast import pass_seconds
from calibration.forward_pass.memory import statistics_bytes
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.machine_speed import MachineSpeed
from tests.families import make_family


def test_products_of_a_dense_model(tmp_path: Path) -> None:
    source = open_source(make_family("llama", tmp_path / "tiny", num_hidden_layers=1))
    config = source.checkpoint.config
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    weights = hidden * (q + 2 * kv) + q * hidden + 3 * hidden * inner
    speed = MachineSpeed(2, "", read=1e6, write=1e5, digest=1, products=1e3, singles=1, rounding={}, kept=1e4, moved=1)
    plain = Calibration(samples=2, length=8, moments=False)
    disk, work, putting_away = pass_seconds(source, plain, speed)
    assert work["products"] == pytest.approx(16 * 2 * weights / 1e3)
    kept = statistics_bytes(source, [plain])
    assert putting_away == {"statistics": kept / 1e4}
    assert disk["disk"] == sum(tensor.nbytes for tensor in source.checkpoint.tensors.values()) / 1e6 + kept / 1e5
    # q, k and v read one input, gate and up another.
    pairs = hidden**2 + q**2 + hidden**2 + inner**2
    _, moments, _ = pass_seconds(source, Calibration(samples=2, length=8), speed)
    assert moments["products"] == pytest.approx(16 * 2 * (weights + pairs) / 1e3)


def test_of_experts_a_token_meets_a_few(tmp_path: Path) -> None:
    speed = MachineSpeed(2, "", read=1, write=1, digest=1, products=1, singles=1, rounding={}, kept=1, moved=1)
    profile = Calibration(samples=1, length=1, moments=False)
    few, all_of_them = (
        pass_seconds(open_source(make_family("mixtral", tmp_path / f"{k}", num_experts_per_tok=k)), profile, speed)[1]
        for k in (1, 4)
    )
    source = open_source(tmp_path / "1")
    experts = sum(li.in_features * li.out_features for li in source.architecture.linears if li.expert is not None)
    assert all_of_them["products"] - few["products"] == pytest.approx(2 * experts * 3 / source.architecture.experts)
