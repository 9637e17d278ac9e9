"""coverage.svg: how many calibration tokens reached each expert of each layer."""

from collections.abc import Sequence
from math import log2

from calibration.forward_pass.coverage import Coverage
from sixfold.drawing.heat_map import Cell, Row, heat_map

FILE = "coverage.svg"
_OCTAVES = 3
"""The scale goes from an eighth of an even share of a layer's tokens to eight times that."""


def coverage_map(model: str, coverage: Sequence[Coverage], min_tokens: int) -> str:
    """The SVG's text. coverage: at least one layer."""
    experts = sum(len(layer.tokens) for layer in coverage)
    starved = sum(len(layer.starved) for layer in coverage)
    note = "each cell is an expert, colored by its share of the layer's tokens"
    if starved:
        note += f"; the {starved} with an edge saw fewer than {min_tokens}, empty ones none"
    title = f"{model}: tokens that reached {experts} experts in calibration"
    rows = [Row(str(layer.layer), tuple(_cells(layer))) for layer in coverage]
    return heat_map(title, note, rows, least=f"1/{2**_OCTAVES} of an even share", most=f"{2**_OCTAVES} times")


def _cells(layer: Coverage) -> list[Cell]:
    even = sum(layer.tokens) / len(layer.tokens)
    return [
        Cell(
            shade=_shade(tokens, even),
            said=f"layer {layer.layer}, expert {expert}: {tokens:,} token{'' if tokens == 1 else 's'}",
            marked=expert in layer.starved,
        )
        for expert, tokens in enumerate(layer.tokens)
    ]


def _shade(tokens: int, even: float) -> float | None:
    return None if tokens == 0 else min(max(0.5 + log2(tokens / even) / (2 * _OCTAVES), 0), 1)
