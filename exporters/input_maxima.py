"""The largest input that calibration saw of every Linear: what fixed input scales are made from."""

from collections.abc import Sequence

import torch

from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.statistics.starved_experts import filled, note
from sixfold.statistics.statistics import Statistics


def largest_inputs(statistics: Statistics, linears: Sequence[Linear]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """max |x| of the input of each of `linears` (of one decoder layer), float32 scalars by name; and notes.

    An expert that too few tokens reached gets the replacement of the calibration's profile (see
    sixfold.statistics.starved_experts), and one that read only zeros the largest input of the layer's other
    experts: they read the same hidden states (or, for a down projection, products of the same kind), so it covers what
    the expert may yet meet, and engines that collapse a layer's experts to one scale arrive at the value they would
    have had without it.
    Raises SixfoldError where calibration reached none of a layer's experts, or saw infinite or NaN inputs.
    """
    sites: dict[str, list[tuple[Linear, int | None]]] = {}
    for linear in linears:
        site, expert = statistics.place_of(linear.name)
        sites.setdefault(site, []).append((linear, expert))
    found: dict[str, torch.Tensor] = {}
    first_layer = linears[0].layer if linears else None
    notes = list(note(statistics, first_layer)) if first_layer is not None else []
    for site, readers in sites.items():
        largest = _largest(statistics, site)
        first = readers[0][0]
        if not torch.isfinite(largest).all():
            raise SixfoldError(
                f"calibration saw infinite or NaN inputs of {first.name}",
                "the model overflows on the calibration texts: check the source checkpoint",
            )
        unseen = sorted({expert for _, expert in readers if expert is not None and largest[expert] == 0})
        if unseen:
            others = largest.max()
            if others == 0:
                raise SixfoldError(
                    f"calibration reached no expert of layer {first.layer}", "calibrate with more or other texts"
                )
            largest[unseen] = others
            parts = " and ".join(dict.fromkeys(linear.part for linear, _ in readers))
            notes.append(
                f"layer {first.layer}, {parts} projections: calibration saw only zeros as input of experts"
                f" {', '.join(map(str, unseen))}; their input scales assume the largest input of the layer's other"
                f" experts, {others.item():.6g}"
            )
        for linear, expert in readers:
            found[linear.name] = largest if expert is None else largest[expert]
    return found, notes


def _largest(statistics: Statistics, site: str) -> torch.Tensor:
    """float32 [] or [experts]; 0 where no token was seen."""
    found = filled(statistics, site, ("abs_max", "count"))
    return found["abs_max"].amax(-1) * (found["count"] > 0)
