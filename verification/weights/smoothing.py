"""Scales moved between a norm and its readers (AWQ, SmoothQuant): found from the weights, and proven to cancel.

A smoothed Linear holds W' = diag(rows) W diag(columns), rounded. Both factors are fitted by least squares, so nothing
has to be known of the tool that chose them. The model is unchanged only where what a norm (or the Linear before) was
divided by is what every reader was multiplied by; a router that was left out routes otherwise, without an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from sixfold.model.architecture import Architecture, Linear, Norm
from verification.finding import EXPORT_AGAIN, Finding

TOLERANCE = 0.12
"""How far a fitted factor may be off: what rounding to 4 bits does to the fit of a column of 64 weights."""

_EXACT_TOLERANCE = 0.02
"""The same for weights in BF16: twice its rounding, of the weight and of the norm."""

_ROUNDS = 6

_PRODUCERS = {"down_proj": ("up_proj",), "w2": ("w3",), "o_proj": ("v_proj", "kv_b_proj")}
"""A Linear -> the Linear whose outputs reach it element by element, by the last parts of their names."""


@dataclass(frozen=True)
class Factors:
    """columns: float32 [in], rows: float32 [out] or None where they are one; NaN where the source's weights are all
    zero, which tells nothing. exact: fitted to weights that were not quantized."""

    columns: torch.Tensor
    rows: torch.Tensor | None
    exact: bool = False


def fit(weight: torch.Tensor, source: torch.Tensor, *, with_rows: bool) -> tuple[Factors, torch.Tensor]:
    """Factors by alternating least squares, and the weight with them undone. weight, source: float32 [out, in]."""
    columns = _ratio(weight, source, 0)
    if not with_rows:
        return Factors(columns, None), weight / _safe(columns)
    rows = torch.ones(source.shape[0])
    for _ in range(_ROUNDS):
        rows = _ratio(weight, source * _safe(columns), 1)
        columns = _ratio(weight, source * _safe(rows).unsqueeze(1), 0)
    common = float(_safe(rows).abs().log().median().exp())  # it can stand on either side
    rows, columns = rows / common, columns * common
    return Factors(columns, rows), weight / _safe(columns) / _safe(rows).unsqueeze(1)


def standard_error(found: Factors, weight: torch.Tensor, source: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Relative standard error of each product of a row's and a column's factor, float32 that broadcasts to the weight;
    infinite where only one weight speaks for it. Weights that are zero in both do not count.

    Of what the residuals say, and of what rounding to steps must make them, the larger: a factor that one large weight
    decides leaves no residual. step: float32 that broadcasts to the weight.
    """
    expected = applied(found, source)
    rounded = (step / 12**0.5).expand(source.shape)
    error = _relative(weight - expected, expected, rounded, 0).unsqueeze(0)
    if found.rows is None:
        return error
    return error + _relative(weight - expected, expected, rounded, 1).unsqueeze(1)


def applied(found: Factors, source: torch.Tensor) -> torch.Tensor:
    """The source's weight with factors moved into it, float32 [out, in]; unknown ones are one."""
    scaled = source * _safe(found.columns)
    return scaled if found.rows is None else scaled * _safe(found.rows).unsqueeze(1)


def _relative(residual: torch.Tensor, expected: torch.Tensor, rounded: torch.Tensor, dim: int) -> torch.Tensor:
    freedom = (expected != 0).sum(dim) - 1
    squares = expected.pow(2).sum(dim)
    seen = (residual.pow(2).sum(dim) / freedom.clamp(min=1) / squares.clamp(min=1e-30)).sqrt()
    due = (rounded * expected).pow(2).sum(dim).sqrt() / squares.clamp(min=1e-30)
    error = torch.maximum(seen, due)
    return torch.where((freedom > 0) & (squares > 0), error, torch.full_like(error, torch.inf))


def is_producer(linear: Linear) -> bool:
    """Whether another Linear reads this one's outputs element by element, so that scales may move between the two."""
    producers = {name for names in _PRODUCERS.values() for name in names}
    return linear.name.rpartition(".")[2] in producers


def _ratio(weight: torch.Tensor, source: torch.Tensor, dim: int) -> torch.Tensor:
    squares = source.pow(2).sum(dim)
    return torch.where(squares > 0, (weight * source).sum(dim) / squares.clamp(min=1e-30), torch.nan)


def _safe(factors: torch.Tensor) -> torch.Tensor:
    return torch.where(factors.abs() >= 1e-12, factors, torch.ones_like(factors))  # NaN becomes one as well


def middle(factors: torch.Tensor) -> float:
    """The median of the known ones; 1 where there is none."""
    known = factors[~factors.isnan()]
    return float(known.median()) if known.numel() else 1.0


def norm_ratio(norm: Norm, weight: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """What the norm was divided by, float32 [channels]; NaN for a channel that it makes zero before and after."""
    one = 1.0 if norm.one_plus else 0.0
    return torch.where((source + one == 0) & (weight + one == 0), torch.nan, (source + one) / _safe(weight + one))


def check_cancels(
    architecture: Architecture,
    layer: int | None,
    norms: Mapping[str, torch.Tensor],
    factors: Mapping[str, Factors],
) -> Iterator[Finding]:
    """norms: what each norm of the layer was divided by, of those that changed. factors: of every Linear of the layer
    that changed by more than rounding."""
    linears = {linear.name: linear for linear in architecture.linears if linear.layer == layer}
    for norm in architecture.norms:
        ratio = norms.get(norm.weight)
        if norm.layer != layer:
            continue
        wrong = [f for reader in norm.readers for f in _check_reader(norm, ratio, reader, factors.get(reader))]
        if len(wrong) < len(norm.readers):
            yield from wrong
        elif ratio is not None or wrong:
            yield _finding(norm.weight, "it and what reads it were not scaled together: no reader compensates for it")
    made_up_for = {producer.name for name in factors if (producer := producer_of(linears[name], linears)) is not None}
    for name, found in factors.items():
        linear = linears[name]
        if linear.norm is None and _differs(found.columns):
            yield from _check_producer(linear, found, linears, factors)
        if found.rows is not None and _differs(found.rows) and name not in made_up_for:
            yield _finding(f"{name}.weight", "its rows are scaled, and no Linear that reads them compensates for it")


def _check_reader(norm: Norm, ratio: torch.Tensor | None, reader: str, found: Factors | None) -> Iterator[Finding]:
    if ratio is None and found is None:
        return
    expected = ratio if ratio is not None else torch.ones_like(found.columns)  # type: ignore[union-attr]
    columns = found.columns if found is not None else torch.ones_like(expected)
    if found is not None and found.rows is not None:  # one factor can stand on either side
        columns = columns * middle((expected / columns).abs())
    tolerance = TOLERANCE if found is not None and not found.exact else _EXACT_TOLERANCE
    if _differs(columns / expected, tolerance):
        worst = int((columns / expected - 1).abs().nan_to_num(0.0).argmax())
        yield _finding(
            f"{reader}.weight",
            f"{norm.weight} was divided by {float(expected[worst]):.3g} in channel {worst}, and this reader of it"
            f" multiplied by {float(columns[worst]):.3g}",
        )


def _check_producer(
    linear: Linear, found: Factors, linears: Mapping[str, Linear], factors: Mapping[str, Factors]
) -> Iterator[Finding]:
    producer = producer_of(linear, linears)
    made = factors.get(producer.name) if producer is not None else None
    if producer is None or made is None or made.rows is None:
        yield _finding(linear.weight, "its columns are scaled, and nothing before it was divided by as much")
        return
    rows, columns = made.rows, found.columns
    if rows.numel() != columns.numel():  # value heads are shared by query heads; heads of kv_b_proj hold keys as well
        return
    product = rows * columns
    if _differs(product / middle(product)):
        yield _finding(linear.weight, f"its columns are not scaled by what {producer.name} was divided by")


def producer_of(linear: Linear, linears: Mapping[str, Linear]) -> Linear | None:
    """The Linear whose outputs reach this one element by element. linears: of its layer, by name."""
    parent, _, last = linear.name.rpartition(".")
    names = (f"{parent}.{name}" for name in _PRODUCERS.get(last, ()))
    return next((linears[name] for name in names if name in linears), None)


def _finding(name: str, what: str) -> Finding:
    return Finding(
        "smoothing.not-canceled",
        name,
        what,
        "the model computes something else: a router that is not scaled along chooses other experts",
        EXPORT_AGAIN,
    )


def significant(found: Factors) -> bool:
    """Whether factors differ from one by more than rounding makes them."""
    parts = [found.columns] if found.rows is None else [found.columns, found.rows]
    return any(_differs(part) for part in parts)


def uniform(found: Factors) -> bool:
    """Whether all of a matrix is off by one factor: a wrong scale, and nothing that was moved elsewhere."""
    parts = [found.columns] if found.rows is None else [found.columns, found.rows]
    return significant(found) and not any(_differs(part / (middle(part) or 1.0)) for part in parts)


def agrees(ratio: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether a bias was multiplied by what the rows of its weight were, but for one factor, which a fit may put on
    either side. ratio, rows: float32 [out], NaN where unknown."""
    product = ratio / rows
    return not _differs(product / (middle(product) or 1.0))


def undoes(found: Factors, ratio: torch.Tensor) -> bool:
    """Whether columns were multiplied by what was divided by before them, a common factor included. ratio: [in]."""
    return not _differs(found.columns / ratio)


def _differs(factors: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether the known factors are not all one, but for what a fit to rounded weights leaves."""
    off = (factors[~factors.isnan()] - 1).abs()
    if not off.numel():
        return False
    return float(off.median()) > tolerance / 3 or float((off > tolerance).float().mean()) > 0.05
