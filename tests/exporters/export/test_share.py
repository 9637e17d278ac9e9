"""A variant in which less than half of the decoder is quantized says so first."""

from pathlib import Path

from exporters.export.planning import plan_of
from sixfold.artifact.plan import LITTLE_QUANTIZED
from sixfold.model.source import open_source
from tests.exporters.exported import DEMO, recipe
from tests.families import make_family


def test_a_model_whose_rows_mostly_do_not_fit(tmp_path: Path) -> None:
    """NVFP4's groups of 16 do not divide rows of 200: what the down projections read."""
    sizes = {"hidden_size": 200, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}
    source = open_source(make_family("llama", tmp_path / "model", **sizes, intermediate_size=64))
    plan = plan_of(source, recipe("nvfp4", "NVFP4A16"), None)
    assert plan is not None
    total = 2 * (4 * 200 * 256 + 3 * 200 * 64)
    quantized = 2 * (200 * 256 + 200 * 64)  # o_proj reads 256 channels, down_proj 64
    assert plan.notes[0] == f"{LITTLE_QUANTIZED}: {quantized / total:.0%}, and the others stay in 16 bits"


def test_a_model_that_is_quantized_whole() -> None:
    source = open_source(DEMO)
    for made in (recipe("fp8", "FP8_DYNAMIC"), recipe("bf16", "BF16")):
        plan = plan_of(source, made, None)
        assert plan is not None
        assert not any(note.startswith(LITTLE_QUANTIZED) for note in plan.notes)
