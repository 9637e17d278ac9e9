"""Seconds that are foretold of verifying, against runs and bytes counted by hand."""

from math import prod

import pytest

from exporters.export.planning import plan_all
from sixfold.artifact.plan import ExportPlan
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import load_recipes
from sixfold.runner.machine_speed import MachineSpeed, SmallJob, Verifying
from sixfold.texts.held_out_text import held_out, most_tokens
from tests.exporters.exported import DEMO
from verification.forecast import verification_seconds


def test_runs_of_a_walk() -> None:
    source = open_source(DEMO)
    config, linears = source.checkpoint.config, [li for li in source.architecture.linears if li.layer is not None]
    every, experts = (
        sum(2 * li.in_features * li.out_features for li in some)
        for some in (linears, [li for li in linears if li.expert is not None])
    )
    token = every - experts + experts * config["num_experts_per_tok"] / config["num_local_experts"]
    token += 2 * config["vocab_size"] * config["hidden_size"]
    speed = MachineSpeed(2, "", read=1e6, write=1, digest=1, products=1, singles=1e3, rounding={}, kept=1, moved=1)
    recipes = [recipe for name in ("bf16", "fp8", "nvfp4", "gguf-q8_0") for recipe in load_recipes(name)]
    planned = plan_all(source, recipes)
    plans = [(entry.recipe, entry.plan) for entry in planned if entry.plan is not None]
    assert len(plans) == 4
    disk, work = verification_seconds(source, plans, speed)
    # the source's own; weights, as run and plain of two, and what has inputs as they are but for one run
    assert work["products"] == pytest.approx((1 + 3 + 2 + 3) * most_tokens() * token / 1e3)
    read = sum(tensor.nbytes for tensor in source.checkpoint.tensors.values()) + sum(plan.nbytes for _, plan in plans)
    assert disk["disk"] == read / 1e6


def test_weights_are_compared_for_each_variant_and_rounded_plainly_once() -> None:
    source = open_source(DEMO)
    known = {"copy": Verifying(1.0, 0, 0), "nvfp4": Verifying(1e3, 0, 1e6)}
    job = SmallJob(0.0, {}, known, held=0.0, answers=0.0)
    speed = MachineSpeed(2, "", 1, 1, digest=1, products=1, singles=1, rounding={}, kept=1, moved=1, job=job)
    recipes = [load_recipes(name, [])[0] for name in ("nvfp4", "nvfp4-gb10")]
    plans = [(entry.recipe, entry.plan) for entry in plan_all(source, recipes) if entry.plan is not None]
    parts = verification_seconds(source, plans, speed)[1]
    every = sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values())
    nvfp4 = [_quantized(source, plan) for _, plan in plans]
    assert parts["comparing"] == pytest.approx(sum(1e3 * n + every - n for n in nvfp4))
    assert parts["rounding plainly"] == pytest.approx(1e6 * max(nvfp4))


def test_what_runs_take_beside_products_follows_the_numbers_that_pass_linears() -> None:
    source = open_source(DEMO)
    config = source.checkpoint.config
    met = config["num_experts_per_tok"] / config["num_local_experts"]
    linears = [li for li in source.architecture.linears if li.layer is not None]
    passing = sum((li.in_features + li.out_features) * (1 if li.expert is None else met) for li in linears)
    job = SmallJob(0.0, {}, {}, held=0.0, answers=0.0, running={"": 1.0, "fp8": 10.0, "gguf": 100.0})
    speed = MachineSpeed(2, "", 1, 1, digest=1, products=1, singles=1, rounding={}, kept=1, moved=1, job=job)
    planned = plan_all(source, [load_recipes(name)[0] for name in ("fp8", "awq")])
    parts = verification_seconds(source, [(one.recipe, one.plan) for one in planned if one.plan], speed)[1]
    # the source's, FP8's weights, as run and plainly rounded, AWQ's weights and plainly rounded
    assert parts["running beside products"] == pytest.approx(most_tokens() * passing * (6 + 2 * 10))


def test_second_moments_are_read_once_for_all_that_are_compensated() -> None:
    source = open_source(DEMO)
    job = SmallJob(0.0, {}, {}, held=0.0, answers=0.0, damped=1.0)
    speed = MachineSpeed(2, "", 1, 1, digest=1, products=1, singles=1, rounding={}, kept=1, moved=1, job=job)
    inputs = {(li.site, li.expert): li.in_features for li in source.architecture.linears if li.layer is not None}
    for rounding, pairs in (("nearest", 0), ("compensated", sum(n * n for n in inputs.values()))):
        recipes = [load_recipes(name, [f"rounding={rounding}"])[0] for name in ("fp8", "nvfp4")]
        plans = [(one.recipe, one.plan) for one in plan_all(source, recipes) if one.plan]
        assert verification_seconds(source, plans, speed)[1]["comparing"] == pytest.approx(pairs)


def _quantized(source: Source, plan: ExportPlan) -> int:
    names = {part.name for unit in plan.units if unit.encoding.startswith("nvfp4") for part in unit.inputs}
    return sum(li.in_features * li.out_features for li in source.architecture.linears if li.weight in names)


def test_tokens_are_those_of_texts_that_are_long_enough() -> None:
    assert 0.9 * most_tokens() < held_out(load_tokenizer(DEMO)).tokens <= most_tokens()
