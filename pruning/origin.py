"""What a pruned checkpoint says about its origin: its name, and its provenance.yaml."""

import re
from dataclasses import replace

from pruning.choosing.criteria import title_of
from pruning.choosing.plan_file import PruningPlan
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.provenance import Provenance


def result_name(checkpoint: Checkpoint, plan: PruningPlan) -> str:
    """MiniMax-M2.7 -> MiniMax-M2.7-REAP-154: how it was pruned, and how many experts a layer has left."""
    title = title_of(plan.criterion) or re.sub(r"[^A-Za-z0-9]+", "-", plan.criterion).strip("-") or "pruned"
    return f"{checkpoint.name}-{title}-{max(plan.counts.values())}{'-Healed' if plan.healing else ''}"


def provenance_of(checkpoint: Checkpoint, plan: PruningPlan, name: str) -> Provenance:
    """The source's own, with what was done to it; license and authors are inherited. The base model is the hub id that
    was pruned, or what the source's own provenance names."""
    past = checkpoint.provenance
    done = f"{_done(plan)} (sixfold prune)"
    return replace(
        past,
        name=name,
        base_model=checkpoint.location if checkpoint.revision else past.base_model,
        method=f"{past.method.rstrip('.')}; then {done}" if past.method else done,
    )


def _done(plan: PruningPlan) -> str:
    removed = sorted({entry.experts - len(entry.kept) for entry in plan.layers})
    experts = plan.layers[0].experts
    count = str(removed[0]) if len(removed) == 1 else f"{removed[0]} to {removed[-1]}"
    layers = f"each of {len(plan.layers)} layers"
    done = f"{count} of {experts} experts of {layers} pruned by the criterion {plan.criterion}"
    if plan.healing is None:
        return done
    profile = plan.healing["profile"]
    return (
        f"{done}, and the projections of the others refitted by least squares to what each layer gave before, on"
        f" {profile['samples']} x {profile['length']} tokens of text"
    )
