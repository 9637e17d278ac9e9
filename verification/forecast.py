"""How long verifying takes, from shapes and from what was measured of this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from sixfold.artifact.plan import ExportPlan
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.meta_model import transformers_config
from sixfold.model.products import products_of_a_token
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.runner.available_memory import available_on
from sixfold.runner.machine_speed import COMPENSATED, MachineSpeed, SideBySide, Verifying
from sixfold.texts.held_out_text import most_tokens
from verification.smoke.smoke_test import ROOM


def verification_seconds(
    source: Source, planned: Sequence[tuple[Recipe, ExportPlan]], speed: MachineSpeed
) -> SideBySide:
    """Of all variants in one walk: while they and the source are read from the "disk", weights are compared, rounded
    plainly for gates, and run ("products" in float32, head included), and the answers compared with the source's; the
    prompts read weights once more. Attention is not counted."""
    stored = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    read = stored + sum(plan.nbytes for _, plan in planned)
    recipes = [recipe for recipe, _ in planned]
    runs = 1 + sum(runs_of_recipe(r.scheme, r.exporter, gated=r.gates.max_kl_ratio is not None) for r in recipes)
    text = transformers_config(source.checkpoint.config).get_text_config()
    logits = runs * most_tokens() * int(text.vocab_size)
    products = runs * most_tokens() * products_of_a_token(source.architecture) + 2 * logits * int(text.hidden_size)
    job, known = speed.job, _Known(speed.job.verifying)
    comparing = plain = decoding = 0.0
    rounded: set[object] = set()
    for recipe, plan in planned:
        for unit in plan.units:
            kind = unit.encoding.partition(" ")[0]
            takes = known.of(kind, compensated=recipe.rounding == "compensated")
            weights = sum(_weights(source, part) for part in unit.inputs)
            comparing += weights * takes.compare
            decoding += weights * takes.decode
            key = kind, tuple(f"{part.name} {part.start}" for part in unit.inputs)
            if recipe.gates.max_kl_ratio is not None and key not in rounded:
                rounded.add(key)  # the same for all variants of the same types
                plain += weights * takes.plain
    prompts = decoding + stored * job.held if _fits(source) else 0.0
    parts = {
        "products": products / speed.singles,
        "comparing": comparing,
        "rounding plainly": plain,
        "answers": logits * job.answers,
        "prompts": prompts,
        "holding the source": stored * job.held,
    }
    return {"disk": speed.disk_seconds(read, 0)}, parts


@dataclass(frozen=True)
class _Known:
    """By type. One that was not measured takes as long as those that were do on average."""

    verifying: Mapping[str, Verifying]

    def of(self, kind: str, *, compensated: bool) -> Verifying:
        found = self.verifying.get(kind + COMPENSATED) if compensated else None
        return found or self.verifying.get(kind) or self._average

    @cached_property
    def _average(self) -> Verifying:
        every = self.verifying.values()
        count = max(1, len(every))
        return Verifying(
            sum(one.compare for one in every) / count,
            sum(one.decode for one in every) / count,
            sum(one.plain for one in every) / count,
        )


def _weights(source: Source, part: TensorSlice) -> int:
    return (part.stop - part.start) * prod(source.checkpoint.named(part.name).shape[1:])


def _fits(source: Source) -> bool:
    """Whether prompts are answered: the whole model in float32 fits into this machine's memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = available_on(device)
    return free is None or ROOM * 4 * sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values()) <= free


def runs_of_recipe(scheme: str, exporter: str, *, gated: bool) -> int:
    """With weights alone, as an engine runs it where that rounds inputs, and plainly rounded where a gate asks."""
    if scheme == "BF16":  # the source's own
        return 0
    rounds = exporter == "gguf" or scheme.startswith("FP8") or scheme == "NVFP4"
    return 1 + rounds + gated
