"""A checkpoint together with what is known of its architecture: what every exporter receives."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sixfold.checkpoint.checkpoint import Checkpoint, open_checkpoint
from sixfold.checkpoint.location import config_alone, local_folder
from sixfold.checkpoint.provenance import Provenance
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.architecture import Architecture
from sixfold.model.bare_config import open_config
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts

_ROWS = 8192  # of two tensors, read at a time to compare them


@dataclass(frozen=True)
class Source:
    """checkpoint: with one matrix an expert, however they are stored (see sixfold.model.expert_stacks)."""

    checkpoint: Checkpoint
    architecture: Architecture

    @property
    def as_stored(self) -> "Source":
        """With the tensors that are on disk; itself where experts are stored one by one."""
        stored = self.checkpoint.as_stored
        return self if stored is self.checkpoint else Source(stored, derive_architecture(stored))


def open_source(
    model: str | Path,
    *,
    revision: str = "",
    name: str = "",
    provenance: Provenance | None = None,
    headers_only: bool = False,
) -> Source:
    """A folder or a hub id; see `open_checkpoint`. Raises SixfoldError with cause and remedy."""
    model = str(model)
    if config_alone(model) is not None:
        raise SixfoldError(
            f"{model} is a configuration without weights",
            "give the folder of the checkpoint, or its hub id; inspect, plan and budget work on a config.json alone",
        )
    checkpoint = open_checkpoint(model, revision=revision, name=name, provenance=provenance, headers_only=headers_only)
    checkpoint = with_single_experts(checkpoint)
    source = Source(checkpoint, derive_architecture(checkpoint))
    if not headers_only or local_folder(model) is not None:
        _check_tied(source)
    return source


def _check_tied(source: Source) -> None:
    """Raises SixfoldError where config.json ties two tensors that are on disk both, and are not the same: transformers
    computes with both, vLLM, SGLang and llama.cpp with one."""
    checkpoint = source.checkpoint
    for name, other in source.architecture.tied_copies:
        rows = checkpoint.tensors[name].shape[0]
        for start in range(0, rows, _ROWS):
            one, two = (checkpoint.read(TensorSlice(n, start, min(start + _ROWS, rows))) for n in (name, other))
            if not torch.equal(one, two):
                raise SixfoldError(
                    f"{checkpoint.location} holds another {name} than {other}, and its config.json says that the two"
                    " are one (tie_word_embeddings): transformers uses both, vLLM, SGLang and llama.cpp the second",
                    f"set tie_word_embeddings to false if {name} is meant, or remove that tensor",
                )


def describe_source(
    model: str,
    *,
    revision: str = "",
    name: str = "",
    provenance: Provenance | None = None,
    experts: int | None = None,
) -> Source:
    """What is known of a model before its weights are downloaded: from a folder, from a hub id's headers, or, for a
    config.json alone (or a folder with nothing else), from transformers' own model. No weight can be read.

    experts: for a config.json, instead of its own number. Raises SixfoldError, and UsageError where the model cannot
    have so many `experts`.
    """
    path = config_alone(model)
    if path is None:
        if experts is not None:
            raise UsageError(
                f"{model} has weights, so its number of experts is fixed",
                "give its config.json, or see what `sixfold prune --keep N --dry-run` says",
            )
        return open_source(model, revision=revision, name=name, provenance=provenance, headers_only=True)
    if revision:
        raise UsageError(f"{model} is a local path, and has no revision {revision}", "leave the revision out")
    checkpoint = with_single_experts(open_config(path, model, name=name, provenance=provenance, experts=experts))
    architecture = derive_architecture(checkpoint)
    if experts is not None and architecture.experts != experts:
        raise SixfoldError(
            f"{model} gives its number of experts in a field that is not known here, so it would still have"
            f" {architecture.experts}",
            f"write {experts} into the file itself",
        )
    return Source(checkpoint, architecture)
