"""A pruned checkpoint as an export plan: every tensor a copy of the source's, renamed or with experts left out."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from pruning.anatomy import Anatomy, ExpertTensor
from pruning.choosing.counts import uneven
from pruning.choosing.plan_file import FILE, PruningPlan, plan_text
from pruning.choosing.saliency_map import heat_map
from pruning.healing.healed_weights import HealedWeights, is_refitted
from pruning.mtp import Mtp, mtp_tensors
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import COPY, Draft, DraftTensor, carried_texts, place, whole
from sixfold.artifact.streaming.writing import Encode
from sixfold.artifact.workspace import json_bytes
from sixfold.checkpoint.checkpoint import CONFIG, SourceTensor
from sixfold.checkpoint.config_fields import with_counts, without_mtp, without_quantization
from sixfold.checkpoint.provenance import FILE as PROVENANCE
from sixfold.checkpoint.provenance import Provenance, provenance_text
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source

VARIANT = "pruned"
SELECT = "select"
HEAL = "heal"
PICTURE = "saliency.svg"

_EXPERT = re.compile(r"(?<=experts\.)\d+(?=\.)")


def export_plan(
    source: Source, anatomy: Anatomy, plan: PruningPlan, *, folder: str, mtp: Mtp, provenance: Provenance
) -> ExportPlan:
    """Bytes are the source's, but for quantized tensors, which arrive as BF16. provenance: of the result."""
    checkpoint = source.checkpoint.as_stored
    tensors = {**anatomy.tensors, **mtp_tensors(checkpoint, anatomy, mtp)}
    dropped = set(anatomy.mtp) if mtp == "drop" else set[str]()
    drafts = [
        draft if plan.healing is None else _to_heal(draft, tensors.get(tensor.name))
        for tensor in checkpoint.tensors.values()
        if tensor.name not in dropped
        for draft in _drafts(tensor, tensors.get(tensor.name), plan)
    ]
    texts = {
        CONFIG: json_bytes(_config(source, anatomy, plan, drop_mtp=bool(dropped))),
        **carried_texts(source),
        PROVENANCE: provenance_text(provenance),
        FILE: plan_text(plan).encode(),
        PICTURE: heat_map(plan).encode(),
    }
    return place(drafts, variant=VARIANT, folder=folder, texts=texts, notes=_notes(source, plan, dropped))


def _drafts(tensor: SourceTensor, found: ExpertTensor | None, plan: PruningPlan) -> Iterable[Draft]:
    """One draft, or none for a tensor of a pruned expert."""
    if found is None:
        yield Draft(COPY, (whole(tensor),), (DraftTensor(tensor.name, tensor.dtype, tensor.shape),))
        return
    kept = plan.kept[found.layer]
    if found.expert is not None:
        if found.expert in kept:
            name = _EXPERT.sub(str(kept.index(found.expert)), tensor.name, count=1)
            yield Draft(COPY, (whole(tensor),), (DraftTensor(name, tensor.dtype, tensor.shape),))
        return
    rows = _rows(plan, found, tensor.shape[found.axis])
    shape = (*tensor.shape[: found.axis], len(rows), *tensor.shape[found.axis + 1 :])
    output = DraftTensor(tensor.name, tensor.dtype, shape)
    if found.axis == 0:
        yield Draft(COPY, tuple(TensorSlice(tensor.name, *run) for run in _runs(rows)), (output,))
    else:
        yield Draft(SELECT, (whole(tensor),), (output,))


def _to_heal(draft: Draft, found: ExpertTensor | None) -> Draft:
    """What refitting changes is no copy."""
    return draft if found is None or not is_refitted(found) else replace(draft, encoding=HEAL)


def _rows(plan: PruningPlan, found: ExpertTensor, size: int) -> list[int]:
    """What stays along the dimension of experts. Entries behind the experts' are of something else that the router
    chooses from (Zaya's skip): they stay."""
    (entry,) = (entry for entry in plan.layers if entry.layer == found.layer)
    return [*entry.kept, *range(entry.experts, size)]


def select(anatomy: Anatomy, plan: PruningPlan, healed: HealedWeights | None = None) -> Encode:
    """What makes the units that are no copies: entries of a dimension that is not the first, and refitted weights."""

    def encode(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if unit.encoding == HEAL:
            assert healed is not None
            found_healed = healed.read(unit.outputs[0].name)
            return [torch.cat(list(inputs)) if found_healed is None else found_healed]
        found = anatomy.tensors[unit.inputs[0].name]
        rows = _rows(plan, found, inputs[0].shape[found.axis])
        return [inputs[0].index_select(found.axis, torch.tensor(rows))]

    return encode


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """[0, 1, 2, 5] -> [(0, 3), (5, 6)]."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def _config(source: Source, anatomy: Anatomy, plan: PruningPlan, *, drop_mtp: bool) -> dict[str, object]:
    checkpoint = source.checkpoint
    config = with_counts(checkpoint.config, anatomy.keys, plan.counts)
    if drop_mtp:
        config = without_mtp(config)
    if any(tensor.stored_as != "plain" for tensor in checkpoint.tensors.values()):
        config = without_quantization(config)
    return config


def _notes(source: Source, plan: PruningPlan, dropped: set[str]) -> list[str]:
    notes = []
    if plan.source.get("fingerprint") != source.checkpoint.fingerprint:
        notes.append(f"The plan was made for another checkpoint ({plan.model}), and applied to this one.")
    experts = plan.layers[0].experts
    notes += [sentence for kept in sorted(set(plan.counts.values())) if (sentence := uneven(kept, experts))]
    kinds = sorted({t.stored_as for t in source.checkpoint.tensors.values()} - {"plain"})
    if kinds:
        notes.append(f"Dequantized from {', '.join(kinds)} to BF16 on the way.")
    if dropped:
        notes.append(
            f"Multi-token prediction layers ({len(dropped)} tensors) were left out, and config.json says so:"
            " transformers does not run them, so the saliency of their experts is not known."
        )
    return notes
