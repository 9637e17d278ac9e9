"""Damages of a model's parts, made where they are lacking, and left beside the statistics for whoever asks next."""

from collections.abc import Mapping, Sequence

import torch

from exporters.mix.estimate import Rounding, part_of
from exporters.mix.prices import expert_shares, part_name
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.statistics.damages import Damages, damages_of, write_damages
from sixfold.statistics.input_moments import InputMoments
from sixfold.statistics.statistics import Statistics


def prepared(
    source: Source,
    statistics: Statistics,
    wanted: Mapping[str, Mapping[str, Rounding]],
    progress: Progress,
) -> Damages:
    """wanted: roundings by type, of each part. Written after every layer, so that a run that was stopped resumes."""
    found = damages_of(source, statistics)
    known = InputMoments(statistics, torch.device("cpu"))
    members = _members(source)
    missing = {part: found.lacking(part, kinds) for part, kinds in wanted.items()}
    todo = [part for part, kinds in missing.items() if kinds]
    if not todo:
        return found
    with progress("foretelling damage", len(todo), "parts") as advance:
        layer = None
        for part in todo:
            names, of_layer, expert = members.get(part, ([f"{part}.weight"], None, False))
            if of_layer != layer:
                write_damages(statistics.folder, found)
                layer = of_layer
            shares = _shares(statistics, names, of_layer, expert=expert)
            roundings = {kind: wanted[part][kind] for kind in missing[part]}
            found = found.plus(part, part_of(source, known, names, shares, roundings))
            advance(1)
    write_damages(statistics.folder, found)
    return found


def _members(source: Source) -> dict[str, tuple[list[str], int | None, bool]]:
    """Of each part its weights (experts in order), its layer, and whether they are of experts."""
    found: dict[str, tuple[list[str], int | None, bool]] = {}
    for linear in sorted(source.architecture.linears, key=lambda linear: linear.expert or 0):
        entry = found.setdefault(part_name(linear), ([], linear.layer, linear.expert is not None))
        entry[0].append(linear.weight)
    return found


def _shares(statistics: Statistics, names: Sequence[str], layer: int | None, *, expert: bool) -> Sequence[float]:
    shares = expert_shares(statistics, layer) if expert and layer is not None else None
    if shares is None or len(shares) != len(names) or not sum(shares):
        return [1.0] * len(names)
    return shares
