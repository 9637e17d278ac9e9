"""How much of a model's decoder a plan quantizes: said first where it is less than half."""

from dataclasses import replace
from math import prod

from sixfold.artifact.plan import LITTLE_QUANTIZED, ExportPlan
from sixfold.checkpoint.storage.source_encodings import FP8_CODES, MXFP4_BLOCKS
from sixfold.model.source import Source

_PLAIN = ("BF16", "F16", "F32", "F64")


def quantized_share(source: Source, plan: ExportPlan) -> float:
    """Of the weights of all Linears in decoder layers that may be quantized; 1 where there are none."""
    quantized = {name for tensor in plan.tensors if tensor.dtype not in _PLAIN for name in tensor.inputs}
    quantized |= {name.removesuffix(held) for name in quantized for held in (FP8_CODES, MXFP4_BLOCKS)}
    # Experts that stay as they are stored come from their stack as a whole.
    quantized |= {name for name, cut in source.checkpoint.slices.items() if f"{cut.stack}_blocks" in quantized}
    linears = [linear for linear in source.architecture.linears if linear.layer is not None and linear.quantizable]
    total = sum(prod((linear.out_features, linear.in_features)) for linear in linears)
    held = sum(prod((li.out_features, li.in_features)) for li in linears if li.weight in quantized)
    return held / total if total else 1.0


def with_share(source: Source, plan: ExportPlan) -> ExportPlan:
    """The plan, with a note before all others where it quantizes little; a plan that quantizes nothing means it."""
    share = quantized_share(source, plan)
    if not 0 < share < 0.5:
        return plan
    note = f"{LITTLE_QUANTIZED}: {share:.0%}, and the others stay in 16 bits"
    return replace(plan, notes=(note, *plan.notes))
