"""From an artifact and its source to what its recipe could keep: attribution, and the cheapest way to meet a gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import Windows, held_out
from verification.divergence.attribution import Cost, Proposal, attribute, parts_of_model, propose, smoothed_parts
from verification.divergence.divergence import Reference, reference_of, scored
from verification.divergence.plain_run import plain_score
from verification.gates import allowed_of
from verification.measure import cache_of, plain_rules, runs_of
from verification.reading.weights import CodedWeights, Weights
from verification.result import gates_of
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject
from verification.verify import verify

_EVERY = 4
"""Of the held-out windows every fourth is enough to compare parts with each other."""


@dataclass(frozen=True)
class Suggestion:
    """kl: of the artifact as it is, over all held-out text, with inputs rounded as its engine does. target: None where
    there is no gate. proposal: None where none is needed, or none would do. tokens: that the costs were measured on."""

    kl: float
    target: float | None
    costs: tuple[Cost, ...]
    proposal: Proposal | None
    tokens: int


def suggest(path: Path, source: Source, target: float | None, progress: Progress) -> Suggestion:
    """target: largest mean KL; the recipe's gate where None. Raises SixfoldError for an artifact that is not sound,
    UsageError where nothing is quantized."""
    checked = verify(path, source, progress)
    if not checked.passed:
        raise SixfoldError(
            f"{path} is not sound: {checked.failures[0].where}: {checked.failures[0].what}", "see `sixfold verify`"
        )
    weights, runs = runs_of(path, source)
    nbytes = _nbytes(path, source, weights)
    if any(error.rescaled for error in checked.errors or ()):
        parts = smoothed_parts(source, weights, nbytes)
    else:
        parts = parts_of_model(source, weights, nbytes, experts_together=path.is_dir())
    if not parts:
        raise UsageError(f"no part of {path} is quantized, so none costs anything", "name a quantized variant")
    every = held_out(load_tokenizer(source.checkpoint.folder))
    few = _fewer(every)
    rules = runs.get("engine", {})
    whole = reference_of(source, every, cache_of(path), progress)
    total = scored(source, weights, rules, every, whole, progress).score.mean_kl
    reference = reference_of(source, few, cache_of(path), progress)
    costs = attribute(source, weights, rules, parts, few, reference, progress)
    gate = target if target is not None else _gate(path, source, weights, every, whole, progress)
    proposal = propose(costs, total, gate) if gate is not None and total > gate else None
    return Suggestion(total, gate, costs, proposal, few.tokens)


def _gate(
    path: Path, source: Source, weights: CodedWeights, windows: Windows, reference: Reference, progress: Progress
) -> float | None:
    """The largest mean KL that the recipe's gates leave."""
    gates, plain = gates_of(path), None
    if gates.get("max_kl_ratio") is not None:
        rules = plain_rules(path, source)
        plain = plain_score(source, weights, rules, windows, reference, cache_of(path), progress)
    return allowed_of(plain, gates)["max_mean_kl"]


def _fewer(windows: Windows) -> Windows:
    return Windows(windows.ids[::_EVERY], windows.domains[::_EVERY], f"{windows.digest}/{_EVERY}")


def _nbytes(path: Path, source: Source, weights: Weights) -> Mapping[str, int]:
    """Bytes of every quantized weight, with its scales; of a stack's expert its share."""
    if path.is_dir():
        subject = open_subject(path, source)
        return {
            f"{module}.weight": sum(subject.folder.tensors[f"{module}.{s}"].nbytes for s in suffixes if s != "bias")
            for module, suffixes in subject.modules.items()
            if all(f"{module}.{s}" in subject.folder.tensors for s in suffixes)
        }
    file = open_gguf_subject(path, source)
    return {name: file.weights.nbytes(name) for name in file.weights.names()}
