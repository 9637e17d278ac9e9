"""A pruned checkpoint before it is written: every tensor is read from the original as the plan of its export says."""

import json
from collections.abc import Mapping
from dataclasses import replace

import torch

from pruning.anatomy import Anatomy
from pruning.apply import export_plan, select
from pruning.choosing.plan_file import PruningPlan
from pruning.healing.healed_weights import HealedWeights
from pruning.mtp import Mtp
from sixfold.artifact.plan import Unit
from sixfold.artifact.safetensors_layout import COPY
from sixfold.checkpoint.checkpoint import CONFIG, Contents, SourceTensor
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.derivation import derive_architecture
from sixfold.model.source import Source


def pruned_view(
    source: Source, anatomy: Anatomy, plan: PruningPlan, mtp: Mtp, healed: HealedWeights | None = None
) -> Source:
    """healed: what was refitted; None for the pruned experts' rest as it was. Fingerprint, provenance and extras are
    the original's."""
    checkpoint = source.checkpoint.as_stored
    plain = replace(plan, healing=None)
    export = export_plan(source, anatomy, plain, folder="", mtp=mtp, provenance=checkpoint.provenance)
    units: Mapping[str, Unit] = {unit.outputs[0].name: unit for unit in export.units}
    encode = select(anatomy, plan)

    def whole(name: str) -> torch.Tensor:
        unit = units[name]
        refitted = None if healed is None else healed.read(name)
        if refitted is not None:
            return refitted
        parts = [checkpoint.read(part) for part in unit.inputs]
        if unit.encoding != COPY:
            return encode(unit, parts)[0]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def read(part: TensorSlice) -> torch.Tensor:
        found = whole(part.name)
        return found[part.start : part.stop] if found.dim() else found

    def read_into(name: str, out: torch.Tensor) -> None:
        unit, first = units[name], units[name].inputs[0].name
        if healed is None and unit.encoding == COPY and out.shape == checkpoint.tensors[first].shape:
            checkpoint.read_into(first, out)
        else:
            out.copy_(whole(name).reshape(out.shape))

    tensors = {t.name: SourceTensor(t.name, t.dtype, t.shape, t.nbytes) for t in export.tensors}
    contents = Contents(read, read_into, checkpoint.contents.fingerprint, checkpoint.contents.files)
    config = json.loads(export.texts[CONFIG])
    view = replace(checkpoint, config=config, tensors=tensors, contents=contents)
    return Source(view, derive_architecture(view))
