"""Which units are rounded side by side."""

import torch

from exporters.export.batches import batches
from exporters.export.planning import plan_of
from sixfold.model.source import open_source
from sixfold.recipes.recipe import load_recipes
from tests.exporters.exported import DEMO

CPU = torch.device("cpu")


def test_the_same_weights_of_experts_stand_together_and_every_unit_once() -> None:
    source = open_source(DEMO)
    (recipe,) = load_recipes("nvfp4", [])
    plan = plan_of(source, recipe, None)
    assert plan is not None
    found = batches(source.checkpoint, CPU, plan.units)
    assert sorted(map(hash, plan.units)) == sorted(hash(unit) for batch in found for unit in batch)
    together = [batch for batch in found if len(batch) > 1]
    assert max(map(len, together)) >= 6
    for batch in together:
        kinds = {(unit.encoding, tuple(source.checkpoint.tensors[i.name].shape for i in unit.inputs)) for unit in batch}
        assert len(kinds) == 1
    assert all(len(batch) == 1 for batch in found if batch[0].encoding == "copy")


def test_what_fits_is_all_that_stands_together() -> None:
    """Weights of which one fills a core's share are rounded one by one."""
    source = open_source(DEMO)
    (recipe,) = load_recipes("gguf-q4_k_m", [])
    plan = plan_of(source, recipe, None)
    assert plan is not None
    for batch in batches(source.checkpoint, CPU, plan.units):
        rows = sum(part.stop - part.start for unit in batch for part in unit.inputs)
        assert len(batch) == 1 or rows * 256 * 4 <= 8 << 20
