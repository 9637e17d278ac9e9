"""Experts that few tokens reached: compensated by what is known of them, none is worse than rounded to nearest."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from calibration.common_moments import common_moments
from exporters.numerics.compensated import nvfp4_groups
from exporters.numerics.nvfp4 import PackedWeight, quantize_group
from exporters.rounding.factor import side_by_side
from exporters.rounding.inputs import Inputs
from exporters.rounding.notes import few_tokens
from exporters.rounding.rounded_inputs import for_rounded_inputs
from sixfold.statistics.moments import pack
from sixfold.statistics.statistics import Statistics, layer_file
from verification.reading.packing import e2m1

CPU = torch.device("cpu")
CHANNELS, ROWS = 64, 48
TOKENS = (0, 3, *range(6, 64, 3), *range(70, 400, 11), 400, 600, 800, 1000, 1200, *[2000] * 7)
"""Of 64 experts, of which a third see fewer tokens than they have channels."""
SITE = "model.layers.0.mlp.experts.*.up_proj"


NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


def name(expert: int) -> str:
    return SITE.replace("*", str(expert))


def statistics_of(
    folder: Path, sums: torch.Tensor, starved: list[int], more: Mapping[str, torch.Tensor] = NOTHING
) -> Statistics:
    """A finished calibration with one stacked site. sums: float32 [E, C, C], over TOKENS. more: other statistics."""
    count = torch.tensor(TOKENS)
    found = {"count": count, "sum_sq": sums.diagonal(dim1=1, dim2=2), "moments": pack(sums)}
    found |= {"first": torch.zeros(sums.shape[:2]), "first_count": torch.zeros_like(count)}
    found |= common_moments(sums, count) | dict(more)
    save_file({f"{SITE}/{key}": value.contiguous() for key, value in found.items()}, folder / layer_file(0))
    profile = {"starved": "average", "moments": True, "min_tokens": 8}
    sites = {SITE: {"layer": 0, "experts": len(TOKENS), "linears": [SITE]}}
    moe = {"model.layers.0.mlp.experts": {"layer": 0, "starved": starved}}
    return Statistics(folder, {"sites": sites, "moe": moe, "profile": profile, "files": {}})


def inputs(alike: bool) -> torch.Tensor:
    """Matrices that make each expert's channels of independent ones: float32 [E, C, C]. alike: nearly one for all."""
    draw = torch.Generator().manual_seed(0)
    own = torch.randn(len(TOKENS), CHANNELS, CHANNELS, generator=draw)
    common = torch.randn(1, CHANNELS, CHANNELS, generator=draw)
    return (common + 0.2 * own if alike else own) * torch.logspace(-1, 0.5, CHANNELS)


def error(weight: torch.Tensor, packed: PackedWeight, whole: torch.Tensor, moments: torch.Tensor) -> float:
    scale = (packed.scale.float() / whole).repeat_interleave(16, 1)
    off = e2m1(packed.packed) * scale - weight
    return float(((off @ moments) * off).sum())


@pytest.mark.parametrize("alike", [True, False])
def test_no_expert_is_worse_than_nearest_on_all_that_it_may_read(alike: bool, tmp_path: Path) -> None:
    mixing = inputs(alike)
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randn(number, CHANNELS, generator=draw) @ mixing[e] for e, number in enumerate(TOKENS)]
    known = Inputs(statistics_of(tmp_path, torch.stack([x.t() @ x for x in rows]), [0, 1]), CPU)
    weights = [(torch.randn(ROWS, CHANNELS, generator=draw) * 0.02).bfloat16() for _ in TOKENS]
    factors = [known.factor(name(expert)) for expert in range(len(TOKENS))]
    together = side_by_side([factor for factor in factors if factor is not None])
    made = nvfp4_groups([[weight] for weight in weights], [["w"]] * len(weights), together)
    ratios = []
    for weight, mixed, ((ours,), whole) in zip(weights, mixing, made, strict=True):
        (nearest,), same = quantize_group([weight], ["w"])
        assert torch.equal(whole, same)
        true = mixed.t() @ mixed
        ratios.append(error(weight.float(), ours, whole, true) / error(weight.float(), nearest, whole, true))
    assert max(ratios) <= 1, ratios
    assert max(ratios[-5:]) < 0.75, ratios


def test_what_few_tokens_say_is_left_where_there_are_many(tmp_path: Path) -> None:
    mixing = inputs(alike=False)
    draw = torch.Generator().manual_seed(2)
    rows = [torch.randn(number, CHANNELS, generator=draw) @ mixing[e] for e, number in enumerate(TOKENS)]
    statistics = statistics_of(tmp_path, torch.stack([x.t() @ x for x in rows]), [0, 1])
    known = Inputs(statistics, CPU)
    found = [known.moments(name(expert)) for expert in range(len(TOKENS))]
    chance = [moments.chance for moments in found if moments is not None]
    assert chance[:2] == [1, 1]
    assert max(chance[-5:]) < 0.1
    apart = [chance[TOKENS.index(number)] for number in (0, 9, 30, 60, 147, 400, 1200)]
    assert apart == sorted(apart, reverse=True)
    (note,) = few_tokens(statistics)
    assert note.startswith(f"{SITE}: experts 0, 1, 2")


@pytest.mark.parametrize("expert", [0, 2, TOKENS.index(2000)])
def test_weights_for_rounded_inputs_stay_what_they_are_but_for_the_noise(expert: int, tmp_path: Path) -> None:
    """The average over other experts stands in for expert 0, whose sums are no rows that an engine ever rounds."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randn(number, CHANNELS, generator=draw) for number in TOKENS]
    sample = torch.stack([torch.nn.functional.pad(x[:32], (0, 0, 0, 32 - len(x[:32]))) for x in rows])
    sums = {
        "sample": sample.bfloat16(),
        "sampled": torch.tensor([min(32, number) for number in TOKENS]),
        "sum_abs": torch.stack([x.abs().sum(0) for x in rows]),
        "abs_max": torch.stack([x.abs().amax(0) if len(x) else torch.zeros(CHANNELS) for x in rows]),
    }
    known = Inputs(statistics_of(tmp_path, torch.stack([x.t() @ x for x in rows]), [0, 1], sums), CPU)
    moments = known.moments(name(expert))
    assert moments is not None
    weight = torch.randn(ROWS, CHANNELS, generator=draw) * 0.02
    largest = max(float(x.abs().max()) for x in rows if len(x))
    scale = torch.tensor([448 * 6 / largest])
    _, target = for_rounded_inputs(moments, known.sample(name(expert)), scale, [weight])
    assert float((target - weight).norm() / weight.norm()) < 0.1
