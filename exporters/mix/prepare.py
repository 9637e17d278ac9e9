"""Damages and prices of a model's parts, made where they are lacking, and left beside the statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporters.mix.estimate import Known, Rounding, part_of
from exporters.mix.prices import expert_shares, part_name
from exporters.mix.probe import TYPE, Probed, ProbeRounding, measured_prices
from exporters.protocol import Tokens
from exporters.rounding.device import device
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.statistics.damages import Damages, damages_of, write_damages
from sixfold.statistics.statistics import Statistics


def prepared(
    source: Source,
    statistics: Statistics,
    wanted: Mapping[str, Mapping[str, Rounding]],
    tokens: Tokens | None,
    progress: Progress,
) -> Damages:
    """wanted: roundings by type, of each part. tokens: the calibration's, for probes; None where there are no texts."""
    found = damages_of(source, statistics)
    parts = _parts(source, wanted)
    known = Known(statistics, device())
    todo = [part for part in parts if found.lacking(part.name, (TYPE, *wanted[part.name]))]
    if todo:
        with progress("foretelling damage", len(todo), "parts") as advance:
            for number, part in enumerate(todo):
                roundings = {TYPE: ProbeRounding(), **wanted[part.name]}
                lacking = {kind: roundings[kind] for kind in found.lacking(part.name, roundings)}
                shares = _shares(statistics, part)
                found = found.plus(part.name, part_of(source, known, part.weights, shares, lacking))
                if number + 1 == len(todo) or todo[number + 1].layer != part.layer:
                    write_damages(statistics.folder, found)
                advance(1)
    unpriced = [part for part in parts if found.parts[part.name].price is None]
    if tokens is not None and statistics.imatrix is None and unpriced:
        damage = {part.name: found.parts[part.name].damages[TYPE].nearest for part in unpriced}
        measured = measured_prices(source, unpriced, damage, tokens(), progress)
        priced = {name: replace(found.parts[name], price=measured.get(name, 0.0)) for name in damage}
        found = Damages(found.made_of, {**found.parts, **priced})
        write_damages(statistics.folder, found)
    return found


def _parts(source: Source, wanted: Mapping[str, Mapping[str, Rounding]]) -> list[Probed]:
    """In the model's order; experts in theirs."""
    found: dict[str, Probed] = {}
    for linear in sorted(
        source.architecture.linears, key=lambda li: (-1 if li.layer is None else li.layer, li.expert or 0)
    ):
        name = part_name(linear)
        if name in wanted:
            before = found[name].weights if name in found else ()
            found[name] = Probed(name, f"{linear.role} {linear.part}", linear.layer, (*before, linear.weight))
    others = [Probed(name, name, None, (f"{name}.weight",)) for name in wanted if name not in found]
    return [*others, *found.values()]


def _shares(statistics: Statistics, part: Probed) -> Sequence[float]:
    shares = expert_shares(statistics, part.layer) if "*" in part.name and part.layer is not None else None
    if shares is None or len(shares) != len(part.weights) or not sum(shares):
        return [1.0] * len(part.weights)
    return shares
