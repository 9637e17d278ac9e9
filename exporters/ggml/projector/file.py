"""The plan of a projector's file, and the reason where there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

from exporters.ggml import layout
from exporters.ggml.header.metadata import Written
from exporters.ggml.kernels import row_bytes
from exporters.ggml.projector.entry import NotRun, Projector, Seeing, mapping_in, vision_config
from exporters.ggml.projector.families import PROJECTORS
from exporters.ggml.projector.header import header, looked_up
from exporters.ggml.projector.tensors import held_by, projector_tensors
from sixfold.artifact.plan import PROJECTOR, PlannedFile, PlannedTensor, Unit
from sixfold.boundary.json_text import read_json_file
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import completed

_PROCESSORS = (("preprocessor_config.json", "media_proc_cfg"), ("processor_config.json", "image_processor"))
"""Files that say how pictures are prepared, later ones first in what both say, and the field that holds it where the
file speaks of more."""
_SENSES = ("vision_config", "audio_config", "encoder_config", "speech_config")


@dataclass(frozen=True)
class ProjectorPlan:
    """files: the one, or none. inputs: names on disk of tensors that it is made of. notes: what a reader should know of
    it, or why there is none."""

    files: tuple[PlannedFile, ...] = ()
    tensors: tuple[PlannedTensor, ...] = ()
    units: tuple[Unit, ...] = ()
    inputs: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def projector_plan(checkpoint: Checkpoint, preset: str | None) -> ProjectorPlan:
    """The file beside the language model of a checkpoint that sees, in F16 or BF16; empty for one that does not, and
    where `preset` is None. Raises SixfoldError where the checkpoint has a known projector in part, or does not say what
    llama.cpp needs of it."""
    if preset is None:
        return ProjectorPlan()
    config, whole = checkpoint.config, completed(checkpoint.config)
    entry, ear = PROJECTORS.get(config["model_type"]), mapping_in(whole, "audio_config")
    tower = vision_config(whole) if entry is None else looked_up(entry.eyes, whole)
    without = partial(_without, "pictures" if tower or config.get("vision_config") else "sound")
    if entry is None or (entry.tower and tower.get("model_type") != entry.tower):
        kind = tower.get("model_type") or config["model_type"]
        return without(f"none is known for {kind}") if _sees(config) else ProjectorPlan()
    if not (tower if entry.kind else ear) or not held_by(entry, checkpoint.tensors):
        return without("the checkpoint has the language model alone") if _sees(config) else ProjectorPlan()
    processor = {**entry.prepared, **_processor(checkpoint)}
    if entry.kind and not processor:
        return without(f"the checkpoint has no {' or '.join(name for name, _ in _PROCESSORS)} to prepare them by")
    token = _any if checkpoint.bare else partial(_token, checkpoint)
    said = Seeing(whole, tower, ear, processor, checkpoint.tensors, token)
    try:
        return _planned(checkpoint, entry, replace(said, tower={**tower, **looked_up(entry.stated, said)}), preset)
    except NotRun as error:
        return without(str(error))
    except SixfoldError as error:
        if checkpoint.bare:  # what only the files beside it say
            return without(f"it cannot be planned from config.json alone ({error.what})")
        raise


def _sees(config: Mapping[str, Any]) -> bool:
    """Whether config.json itself speaks of pictures or sound, and not only transformers' defaults."""
    return any(config.get(sense) for sense in _SENSES)


def _without(what: str, reason: str) -> ProjectorPlan:
    return ProjectorPlan(notes=(f"no projector for {what}: {reason}",))


def _planned(checkpoint: Checkpoint, entry: Projector, seeing: Seeing, preset: str) -> ProjectorPlan:
    found = projector_tensors(entry, seeing, checkpoint.tensors, preset)
    tensors = {tensor.name: tensor for tensor, _ in found}
    group = []
    for tensor, qtype in found:
        nbytes = prod(tensor.shape[:-1]) * row_bytes(qtype, tensor.shape[-1])
        group.append(Written(tensor.name, tensor.shape, qtype, nbytes))
    name, what = f"{PROJECTOR}{checkpoint.name}-{preset}.gguf", "pictures" if entry.kind else "sound"
    files, planned = layout.place([name], [header(checkpoint, entry, seeing, group, preset)], [group], tensors)
    return ProjectorPlan(
        tuple(PlannedFile(file.name, file.header, file.nbytes, shared=True) for file in files),
        tuple(planned),
        tuple(layout.units(planned, tensors, checkpoint.tensors, ())),
        frozenset(name for tensor, _ in found for name in tensor.inputs),
        (f"{what}: {name} ({entry.kind or entry.hears}), which llama.cpp takes as --mmproj",),
    )


def _processor(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Of a config.json alone, values that take as many bytes as those of any model."""
    found: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if checkpoint.bare else {}
    for name, inner in _PROCESSORS:
        if name in checkpoint.extras:
            said = read_json_file(checkpoint.folder / name)
            said = said if isinstance(said, dict) else {}
            found |= {**said, **(said.get(inner) or {})}
    return found


def _token(checkpoint: Checkpoint, text: str) -> int | None:
    added: list[Any] = []
    if "tokenizer_config.json" in checkpoint.extras:
        said = read_json_file(checkpoint.folder / "tokenizer_config.json")
        numbered = said.get("added_tokens_decoder") if isinstance(said, dict) else None
        added += [{**token, "id": int(number)} for number, token in (numbered or {}).items()]
    if "tokenizer.json" in checkpoint.extras:
        said = read_json_file(checkpoint.folder / "tokenizer.json")
        added += (said.get("added_tokens") if isinstance(said, dict) else None) or []
    return next((token["id"] for token in added if token.get("content") == text), None)


def _any(text: str) -> int:
    """Of a config.json alone: a token that is surely there."""
    return 1
