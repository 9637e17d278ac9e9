"""Which unit a published size is in: the readings that the benchmark tries."""

from pathlib import Path

from benchmarks.soundness.article_sizes import PUBLISHED, agreeing, readings, variants
from exporters.export.planning import plan_of
from sixfold.model.source import describe_source, open_source

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


def test_a_figure_agrees_with_what_rounds_to_it() -> None:
    assert agreeing(72, {"GB": 77.56, "GiB": 72.24}) == ("GiB",)
    assert agreeing(140, {"GB": 140.54, "GiB": 130.88}) == ()


def test_readings_are_of_all_files_and_of_what_is_quantized() -> None:
    """Of the demo: FP8 weights and their BF16 scales of every row are what is left of the tensors without the rest."""
    whole = open_source(DEMO)
    kept = sum(
        tensor.nbytes
        for name, tensor in whole.checkpoint.tensors.items()
        if not any(linear.weight == name and linear.quantizable for linear in whole.architecture.linears)
    )
    source = describe_source(str(DEMO / "config.json"))
    by_name = {row: recipe for row, _, recipe in variants()}
    plan = plan_of(source, by_name["fp8"], None)
    assert plan is not None
    found = readings(plan)
    assert found["GB, all files"] == plan.nbytes / 1e9
    assert found["GiB, quantized tensors"] == (sum(tensor.nbytes for tensor in plan.tensors) - kept) / 2**30
    gguf = plan_of(source, by_name["gguf-q6_k"], None)
    assert gguf is not None
    assert list(readings(gguf)) == ["GB, all files", "GiB, all files"]


def test_all_ten_variants_are_compared() -> None:
    assert {recipe.name for _, _, recipe in variants()} == set(PUBLISHED)
    assert len(PUBLISHED) == 10
