"""How long verifying takes, from shapes and from what was measured of this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from sixfold.artifact.plan import ExportPlan
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.meta_model import transformers_config
from sixfold.model.products import products_of_a_token, traffic
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.runner.available_memory import available_on
from sixfold.runner.machine_speed import COMPENSATED, MachineSpeed, SideBySide, SmallJob, Verifying
from sixfold.texts.held_out_text import most_tokens
from verification.divergence.walk import device
from verification.smoke.smoke_test import memory_needed


def verification_seconds(
    source: Source, planned: Sequence[tuple[Recipe, ExportPlan]], speed: MachineSpeed
) -> SideBySide:
    """Of all variants in one walk: while they and the source are read from the "disk", weights are compared, rounded
    plainly for gates, and run ("products" in float32, head included), and the answers compared with the source's; the
    prompts read weights once more. Attention is not counted."""
    stored = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    read = stored + sum(plan.nbytes for _, plan in planned)
    comparing, plain, decoding = _of_weights(source, planned, speed.job)
    parts = {
        **_of_runs(source, [recipe for recipe, _ in planned], speed),
        "comparing": comparing,
        "rounding plainly": plain,
        "prompts": decoding + stored * speed.job.held if _fits(source) else 0.0,
        "holding the source": stored * speed.job.held,
    }
    return {"disk": speed.disk_seconds(read, 0)}, parts


def _of_runs(source: Source, recipes: Sequence[Recipe], speed: MachineSpeed) -> dict[str, float]:
    """Of the source's own run and of all others."""
    each = [(r, runs_of_recipe(r.scheme, r.exporter, gated=r.gates.max_kl_ratio is not None)) for r in recipes]
    runs, tokens, beside = 1 + sum(count for _, count in each), most_tokens(), speed.job.running
    text = transformers_config(source.checkpoint.config).get_text_config()
    logits = runs * tokens * int(text.vocab_size)
    products = runs * tokens * products_of_a_token(source.architecture) + 2 * logits * int(text.hidden_size)
    rounding = [(inputs_of(r.scheme, r.exporter), count) for r, count in each]
    rounded = sum((count - 1) * beside.get(how, 0.0) for how, count in rounding if how)
    return {
        "products": products / speed.singles,
        "running beside products": tokens * traffic(source.architecture) * (runs * beside.get("", 0.0) + rounded),
        "answers": logits * speed.job.answers,
    }


def _of_weights(
    source: Source, planned: Sequence[tuple[Recipe, ExportPlan]], job: SmallJob
) -> tuple[float, float, float]:
    """To be compared, to be rounded plainly for gates, and to be decoded once more."""
    known, comparing, plain, decoding = _Known(job.verifying), 0.0, 0.0, 0.0
    rounded: set[object] = set()
    if any(recipe.rounding == "compensated" for recipe, _ in planned):  # what they were made by, once for all
        inputs = {(li.site, li.expert): li.in_features for li in source.architecture.linears if li.layer is not None}
        comparing += job.damped * sum(channels**2 for channels in inputs.values())
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
    return comparing, plain, decoding


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
    free = available_on(device())
    return free is None or memory_needed(source) <= free


def runs_of_recipe(scheme: str, exporter: str, *, gated: bool) -> int:
    """With weights alone, as an engine runs it where that rounds inputs, and plainly rounded where a gate asks."""
    if scheme == "BF16":  # the source's own
        return 0
    return 1 + bool(inputs_of(scheme, exporter)) + gated


def inputs_of(scheme: str, exporter: str) -> str:
    """How an engine rounds inputs: "gguf", "fp8", "nvfp4", or "" where it does not."""
    if exporter == "gguf":
        return exporter
    return "fp8" if scheme.startswith("FP8") else "nvfp4" if scheme == "NVFP4" else ""
