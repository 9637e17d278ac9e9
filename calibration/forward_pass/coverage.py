"""How many calibration tokens each expert saw: what a reader must know before trusting an expert's statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sixfold.name_lists import some


@dataclass(frozen=True)
class Coverage:
    """One MoE layer. tokens: routed to each expert. unreached: experts that saw none. few: experts that saw fewer
    tokens than the profile's min_tokens (the unreached left out)."""

    layer: int
    tokens: tuple[int, ...]
    unreached: tuple[int, ...]
    few: tuple[int, ...]

    @property
    def starved(self) -> tuple[int, ...]:
        """The experts that saw too few tokens, those that saw none among them."""
        return tuple(sorted((*self.unreached, *self.few)))

    @property
    def median(self) -> float:
        return median(self.tokens)


def coverage_of(layer: int, tokens: tuple[int, ...], enough: int) -> Coverage:
    return Coverage(
        layer,
        tokens,
        unreached=tuple(e for e, n in enumerate(tokens) if n == 0),
        few=tuple(e for e, n in enumerate(tokens) if 0 < n < enough),
    )


def starved_of(routed: Sequence[int], min_tokens: int) -> list[int]:
    """The experts that saw too few tokens, those that saw none among them."""
    return [expert for expert, tokens in enumerate(routed) if tokens < min_tokens]


def coverage_to_json(coverage: tuple[Coverage, ...]) -> list[dict[str, Any]]:
    return [
        {"layer": c.layer, "tokens": list(c.tokens), "unreached": list(c.unreached), "few": list(c.few)}
        for c in coverage
    ]


def coverage_from_json(rows: list[Mapping[str, Any]]) -> tuple[Coverage, ...]:
    return tuple(Coverage(r["layer"], tuple(r["tokens"]), tuple(r["unreached"]), tuple(r["few"])) for r in rows)


TABLE = ("layer", "experts", "least", "median", "most", "starved (tokens)")


def table(coverage: Sequence[Coverage]) -> list[tuple[str | int, ...]]:
    """Rows under TABLE: the tokens of a layer's experts, and which experts saw too few."""
    rows: list[tuple[str | int, ...]] = []
    for c in coverage:
        starved = some([f"{expert} ({c.tokens[expert]})" for expert in c.starved])
        rows.append((c.layer, len(c.tokens), min(c.tokens), round(c.median), max(c.tokens), starved or "-"))
    return rows


def summary(coverage: tuple[Coverage, ...]) -> str:
    """One line for the terminal; "" for a dense model."""
    if not coverage:
        return ""
    experts = sum(len(c.tokens) for c in coverage)
    unreached = sum(len(c.unreached) for c in coverage)
    few = sum(len(c.few) for c in coverage)
    least = min((n, c.layer, e) for c in coverage for e, n in enumerate(c.tokens))
    return (
        f"{experts} experts in {len(coverage)} layers: {unreached} saw no token, {few} saw few;"
        f" the least, expert {least[2]} of layer {least[1]}, saw {least[0]}"
    )
