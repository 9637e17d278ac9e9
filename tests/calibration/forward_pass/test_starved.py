"""Experts that few tokens reach: what stands in for their statistics, as the profile chooses."""

from pathlib import Path

import pytest
import torch

from calibration.calibrate import calibrate
from calibration.forward_pass import batches
from sixfold.checkpoint.checkpoint import open_checkpoint
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.statistics.starved_experts import filled, note, stand_in
from sixfold.statistics.statistics import Statistics
from tests.calibration.forward_pass.test_observe import pass_over
from tests.calibration.silent import silent
from tests.calibration.test_calibrate import starved_demo

pytestmark = pytest.mark.arithmetic

PROFILE = Calibration(samples=6, length=64, sample_rows=16)
MOE = "model.layers.1.block_sparse_moe.experts"


def calibrated(tmp_path: Path, **changes: object) -> Statistics:
    """Of the demo, where expert 5 of layer 1 is never chosen."""
    source = open_source(starved_demo(tmp_path / "model"))
    profile = PROFILE.model_copy(update=changes)
    return calibrate(source, profile, tmp_path / "out", progress=silent).statistics


def test_the_average_over_the_other_experts(tmp_path: Path) -> None:
    statistics = calibrated(tmp_path)
    assert statistics.starved_of(f"{MOE}.*.w1") == (5,)
    assert statistics.starved_of("model.layers.1.self_attn.q_proj") == ()
    others = [0, 1, 2, 3, 4, 6, 7]
    for site in (f"{MOE}.*.w1", f"{MOE}.*.w2"):
        own = statistics.site(site)
        used = filled(statistics, site, ("count", "sum_sq", "sum_abs", "abs_max"))
        assert not own["sum_sq"][5].any()
        for name in ("count", "sum_sq", "sum_abs"):
            torch.testing.assert_close(used[name][5], own[name][others].sum(0))
            assert torch.equal(used[name][others], own[name][others])
        assert torch.equal(used["abs_max"][5], own["abs_max"][others].amax(0))
    instead = stand_in(statistics, f"{MOE}.5.w2")
    assert instead is not None
    mean_square = instead.sample.square().mean(0)
    torch.testing.assert_close(mean_square, instead.sum_sq / instead.count)
    assert stand_in(statistics, f"{MOE}.4.w2") is None
    assert stand_in(statistics, "model.layers.1.self_attn.q_proj") is None
    (sentence,) = note(statistics, 1)
    assert sentence == (
        "layer 1: fewer than 32 calibration tokens reached experts 5; the average over the layer's other experts"
        " is used instead"
    )
    assert note(statistics, 0) == ()


def test_extra_tokens_are_kept_apart_from_the_routed_ones(tmp_path: Path) -> None:
    statistics = calibrated(tmp_path, starved="all_experts")
    routed = calibrated(tmp_path / "plain")
    for site in (f"{MOE}.*.w1", f"{MOE}.*.w2"):
        own, plain = statistics.site(site), routed.site(site)
        assert all(torch.equal(own[name], plain[name]) for name in own)
    # The first projections of all experts read the same hidden states: those of some tokens, whoever they went to.
    instead = stand_in(statistics, f"{MOE}.5.w1")
    assert instead is not None
    assert instead.count == 32
    assert instead.sample.shape == (16, 256)
    sample = statistics.site(f"{MOE}.*.w1")["sample"].reshape(-1, 256)
    assert any(bool((sample == row).all(1).any()) for row in instead.sample)
    # Its down projection reads what its own first projections make of them.
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    gate, up = (torch.empty(256, 256).bfloat16() for _ in range(2))
    checkpoint.read_into(f"{MOE}.5.w1.weight", gate)
    checkpoint.read_into(f"{MOE}.5.w3.weight", up)
    rows = instead.sample.float()
    inner = torch.nn.functional.silu(rows @ gate.float().T) * (rows @ up.float().T)
    down = stand_in(statistics, f"{MOE}.5.w2")
    assert down is not None
    torch.testing.assert_close(down.sample.float(), inner, rtol=0.03, atol=0.03 * float(inner.abs().max()))
    assert "their inputs for extra tokens" in note(statistics, 1)[0]


def test_a_calibration_that_must_reach_everyone_fails(tmp_path: Path) -> None:
    with pytest.raises(SixfoldError) as failure:
        calibrated(tmp_path, starved="fail")
    assert str(failure.value) == (
        "fewer than 32 calibration tokens reached 1 expert in 1 of 2 layers, the worst of which is layer 1: 5 (0);"
        " calibrate on more or other texts, or set calibration.starved to average or all_experts."
    )


def test_a_failure_names_the_worst_of_all_layers(tmp_path: Path) -> None:
    """Of 384 tokens that choose 2 of 8 experts each, none reaches 400 times."""
    with pytest.raises(SixfoldError, match=r"reached 16 experts in 2 of 2 layers, the worst .* and 5 more; calibrate"):
        calibrated(tmp_path, starved="fail", min_tokens=400)


def test_special_tokens_are_left_out_where_the_profile_says_so(tmp_path: Path) -> None:
    counted, without = (calibrated(tmp_path / how, special_tokens=how) for how in ("count", "leave_out"))
    tokens = counted.of_linear("model.layers.0.self_attn.q_proj").count
    kept = without.of_linear("model.layers.0.self_attn.q_proj").count
    assert tokens == 6 * 64
    assert 0 < kept < tokens
    assert int(without.experts_of(0).routed.sum()) == 2 * kept
    assert int(without.site("model.layers.0.block_sparse_moe.experts.*.w1")["count"].sum()) == 2 * kept


def test_tokens_left_out_change_nothing_but_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums over all tokens are those over the tokens that are left out plus those over the rest."""
    source = open_source(starved_demo(tmp_path / "model"))
    ids = torch.randint(0, 2, (4, 32), generator=torch.Generator().manual_seed(0))
    batched = batches.batched
    found = []
    for number, left_out in enumerate(((), (0,), (1,))):
        monkeypatch.setattr(
            "tests.calibration.forward_pass.test_observe.batched",
            lambda ids, seed, left_out=left_out: batched(ids, seed, left_out),
        )
        found.append(pass_over(source, ids, tmp_path / str(number)))
    everything, ones, zeros = found
    for key, value in everything.items():
        if key.endswith(("count", "sum_sq", "sum_abs", "_sum", "coactivation", "routed")):
            torch.testing.assert_close(value, ones[key] + zeros[key], rtol=1e-5, atol=1e-6)
