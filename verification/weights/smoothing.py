"""Scales moved between a norm and its readers (AWQ, SmoothQuant): found from the weights, and proven to cancel.

A smoothed Linear holds W' = diag(rows) W diag(columns), rounded. Both factors are fitted by least squares, so nothing
has to be known of the tool that chose them. The model is unchanged only where what a norm (or the Linear before) was
divided by is what every reader was multiplied by; a router that was left out routes otherwise, without an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from sixfold.model.architecture import Architecture, Linear, Norm
from verification.finding import EXPORT_AGAIN, Finding

_DEVIATIONS = 6.0
"""Standard errors that a fitted factor may be off by."""


@dataclass(frozen=True)
class Tolerance:
    """How far factors may be off one beside what chance makes of a fit: each, and half of them."""

    each: float
    middle: float


EXACT = Tolerance(0.02, 0.007)
"""Of weights in BF16: twice its rounding, of the weight and of the norm."""

FINE = Tolerance(0.02, 0.007)
"""Of eight bits: rounding them is nearly unbiased."""

CLOSE = Tolerance(0.05, 0.007)
"""Of four bits where codes are the nearest, and those at the ends of their range do not count."""

COARSE = Tolerance(0.12, 0.04)
"""Of four bits rounded in another way: what making up for the errors of others does to a column."""

_COMMON = 0.15
"""How far one factor for all of a pair may be off one where errors were made up for: two fits err by it together."""

_ROUNDS = 6

_PRODUCERS = {"down_proj": ("up_proj",), "w2": ("w3",), "o_proj": ("v_proj", "kv_b_proj")}
"""A Linear -> the Linear whose outputs reach it element by element, by the last parts of their names."""


@dataclass(frozen=True)
class Factors:
    """columns: float32 [in], rows: float32 [out] or None where they are one; NaN where the source's weights are all
    zero, which tells nothing. exact: fitted to weights that were not quantized. tolerance, column_error,
    row_error: what they may be off by, and their relative standard errors; None where these are not known. standing:
    float32 [out], the factors of rows that nothing could make up for, which must be one; None where rows may move."""

    columns: torch.Tensor
    rows: torch.Tensor | None
    exact: bool = False
    tolerance: Tolerance = COARSE
    column_error: torch.Tensor | None = None
    row_error: torch.Tensor | None = None
    standing: torch.Tensor | None = None


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention head, from config.json: of values, and of keys without their rotary part where one Linear
    makes both (0 elsewhere)."""

    value: int = 0
    key: int = 0

    def reach(self, rows: torch.Tensor, columns: int) -> torch.Tensor | None:
        """Which row's factor reaches each column of the Linear behind attention: heads of values are read by several
        query heads, and lie behind those of keys in a kv_b_proj. None where sizes do not tell."""
        if rows.numel() == columns:
            return rows
        if not self.value or rows.numel() % (self.key + self.value) or columns % self.value:
            return None
        values = rows.view(-1, self.key + self.value)[:, self.key :]
        times, left = divmod(columns // self.value, len(values))
        return None if left or not times else values.repeat_interleave(times, 0).flatten()


def fit(weight: torch.Tensor, source: torch.Tensor, *, with_rows: bool) -> Factors:
    """By alternating least squares. weight, source: float32 [out, in]."""
    columns = _ratio(weight, source, 0)
    if not with_rows:
        return Factors(columns, None, standing=_ratio(weight, source * _safe(columns), 1))
    rows = torch.ones(source.shape[0])
    for _ in range(_ROUNDS):
        rows = _ratio(weight, source * _safe(columns), 1)
        columns = _ratio(weight, source * _safe(rows).unsqueeze(1), 0)
    common = float(_safe(rows).abs().log().median().exp())  # it can stand on either side
    return Factors(columns * common, rows / common)


def undone(found: Factors, weight: torch.Tensor) -> torch.Tensor:
    """The weight without the factors, float32 [out, in]."""
    without = weight / _safe(found.columns)
    return without if found.rows is None else without / _safe(found.rows).unsqueeze(1)


def applied(found: Factors, source: torch.Tensor) -> torch.Tensor:
    """The source's weight with factors moved into it, float32 [out, in]; unknown ones are one."""
    scaled = source * _safe(found.columns)
    return scaled if found.rows is None else scaled * _safe(found.rows).unsqueeze(1)


def with_errors(found: Factors, weight: torch.Tensor, source: torch.Tensor, step: torch.Tensor | None) -> Factors:
    """`found` with the standard errors of its factors; infinite where only one weight speaks for one. Weights that are
    zero in both do not count.

    Of what the residuals say, and of what rounding to steps must make them, the larger: a factor that one large weight
    decides leaves no residual. step: float32 that broadcasts to the weight.
    """
    expected = applied(found, source)
    due = torch.zeros_like(source) if step is None else (step / 12**0.5).expand(source.shape)
    columns, rows = (_relative(weight - expected, expected, due, side) for side in (0, 1))
    return replace(found, column_error=columns, row_error=rows)


def with_doubts(found: Factors, held: torch.Tensor, again: torch.Tensor, expected: torch.Tensor) -> Factors:
    """`found` with what rounding itself does to such factors: weights that are small beside their steps become zeros,
    so that a fit to them is no measure. held: what was fitted to. expected: with the factors that were found. again:
    the same, rounded. All float32 [out, in]."""
    made = []
    for side, error in ((0, found.column_error), (1, found.row_error)):
        off = (_ratio(again, expected, side) - 1).abs().nan_to_num(0.0)
        made.append(off if error is None else torch.maximum(error, off))
    columns = torch.where(held.any(0), found.columns, torch.nan)
    return replace(found, columns=columns, column_error=made[0], row_error=made[1])


def uncertainty(found: Factors) -> torch.Tensor | None:
    """Relative standard error of each product of a row's and a column's factor, float32 that broadcasts to the weight;
    None where errors are not known."""
    if found.column_error is None or found.row_error is None or found.rows is None:
        return found.column_error
    return found.column_error + found.row_error.unsqueeze(1)


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
    heads: Heads,
) -> Iterator[Finding]:
    """norms: what each norm of the layer was divided by, of those that changed. factors: of every Linear of the layer
    that changed by more than rounding."""
    linears = {linear.name: linear for linear in architecture.linears if linear.layer == layer}
    blamed: set[str] = set()
    for norm in architecture.norms:
        ratio = norms.get(norm.weight)
        if norm.layer != layer:
            continue
        wrong = [f for reader in norm.readers for f in _check_reader(norm, ratio, reader, factors.get(reader))]
        sure = [reader for reader in norm.readers if reader not in factors or factors[reader].rows is None]
        unmoved = ratio is None or not _differs(ratio, EXACT)
        if norm.readers and (len(wrong) < max(1, len(sure)) or (unmoved and not _agree(norm, factors))):
            yield from wrong
        elif ratio is not None or wrong:
            blamed.add(norm.weight)
            yield _finding(norm.weight, "it and what reads it were not scaled together: no reader compensates for it")
    read: set[str] = set()
    for name, found in factors.items():
        if linears[name].norm is not None:
            continue
        producer = producer_of(linears[name], linears)
        if producer is not None:
            read.add(producer.name)
            before = producer.norm or ""
            divided = None if before in blamed else norms.get(before, torch.ones(producer.in_features))
            yield from _check_pair(linears[name], found, producer, factors.get(producer.name), divided, heads)
        elif _differs(found.columns, found.tolerance, found.column_error):
            yield _finding(f"{name}.weight", "its columns are scaled, and nothing before it was divided by as much")
    for name, found in factors.items():
        if found.standing is not None and _differs(found.standing, found.tolerance, found.row_error):
            yield _finding(f"{name}.weight", "some of its rows are scaled, and nothing can make up for that")
        if found.rows is not None and _differs(found.rows, found.tolerance, found.row_error) and name not in read:
            yield _finding(f"{name}.weight", "its rows are scaled, and no Linear that reads them compensates for it")


def _agree(norm: Norm, factors: Mapping[str, Factors]) -> bool:
    """Whether several readers are scaled alike: then it is the norm that was not divided."""
    found = [factors[reader] for reader in norm.readers if reader in factors]
    if len(found) < 2 or len(found) < len(norm.readers):
        return False
    return not any(_differ_from_each_other(found[0], other) for other in found[1:])


def _differ_from_each_other(one: Factors, other: Factors) -> bool:
    ratio = other.columns / one.columns
    errors = None
    if one.column_error is not None and other.column_error is not None:
        errors = one.column_error + other.column_error
    return _differs(ratio / middle(ratio), other.tolerance, errors)


def _check_reader(norm: Norm, ratio: torch.Tensor | None, reader: str, found: Factors | None) -> Iterator[Finding]:
    if ratio is None and found is None:
        return
    expected = ratio if ratio is not None else torch.ones_like(found.columns)  # type: ignore[union-attr]
    columns = found.columns if found is not None else torch.ones_like(expected)
    if found is not None and found.rows is not None:  # one factor can stand on either side
        columns = columns * middle((expected / columns).abs())
    tolerance, error = (EXACT, None) if found is None or found.exact else (found.tolerance, found.column_error)
    if _differs(columns / expected, tolerance, error):
        worst = int((columns / expected - 1).abs().nan_to_num(0.0).argmax())
        yield _finding(
            f"{reader}.weight",
            f"{norm.weight} was divided by {float(expected[worst]):.3g} in channel {worst}, and this reader of it"
            f" multiplied by {float(columns[worst]):.3g}",
        )


def _check_pair(
    linear: Linear,
    found: Factors,
    producer: Linear,
    made: Factors | None,
    divided: torch.Tensor | None,
    heads: Heads,
) -> Iterator[Finding]:
    """linear reads the rows of producer, one by one. divided: what the norm before the producer was divided by;
    None where that is wrong itself."""
    columns = found.columns
    rows = made.rows if made is not None and made.rows is not None else torch.ones(producer.out_features)
    if made is not None and divided is not None:  # one factor for all of it, which a fit puts on the columns' side
        rows = rows * middle(made.columns / divided)
    reached = heads.reach(rows, columns.numel())
    if reached is None:
        if _differs(columns / middle(columns), found.tolerance, found.column_error):
            yield _finding(linear.weight, f"its columns are scaled by what cannot be the rows of {producer.name}")
        return
    error = found.column_error
    if made is not None and made.row_error is not None and error is not None:
        behind = heads.reach(made.row_error, columns.numel())
        error = error if behind is None else error + behind
    tolerance = found.tolerance if made is None or made.tolerance.each <= found.tolerance.each else made.tolerance
    product = reached * columns
    common = middle(product) or 1.0
    if divided is None or (tolerance == COARSE and abs(common - 1) < _COMMON):
        product = product / common
    if _differs(product, tolerance, error):
        moved = [not _differs(side, tolerance, error) for side in (columns, reached)]
        name = {(True, False): producer.weight, (False, True): linear.weight}.get((moved[0], moved[1]))
        if name is None:
            name = f"{producer.weight}, {linear.weight}"
            yield _finding(name, "channels between the two are scaled by what does not cancel: one of them is wrong")
        else:
            other = linear.weight if name == producer.weight else producer.weight
            yield _finding(name, f"it is scaled channel by channel, and {other} does not make up for it")
    if heads.key and rows.numel() != columns.numel() and made is not None:
        keys = rows.view(-1, heads.key + heads.value)[:, : heads.key].flatten()
        if _differs(keys / (middle(keys) or 1.0), tolerance):
            yield _finding(producer.weight, "rows of its keys are scaled, and queries do not make up for it")


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
    return any(_differs(part, found.tolerance, error) for part, error in _sides(found))


def uniform(found: Factors) -> bool:
    """Whether all of a matrix is off by one factor: a wrong scale, and nothing that was moved elsewhere."""
    sides = _sides(found)
    return significant(found) and not any(_differs(p / (middle(p) or 1.0), found.tolerance, e) for p, e in sides)


def _sides(found: Factors) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    columns = [(found.columns, found.column_error)]
    return columns if found.rows is None else [*columns, (found.rows, found.row_error)]


def agrees(ratio: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether a bias was multiplied by what the rows of its weight were, but for one factor, which a fit may put on
    either side. ratio, rows: float32 [out], NaN where unknown."""
    product = ratio / rows
    return not _differs(product / (middle(product) or 1.0), COARSE)


def undoes(found: Factors, ratio: torch.Tensor) -> bool:
    """Whether columns were multiplied by what was divided by before them, a common factor included. ratio: [in]."""
    return not _differs(found.columns / ratio, found.tolerance, found.column_error)


def _differs(factors: torch.Tensor, tolerance: Tolerance, error: torch.Tensor | None = None) -> bool:
    """Whether the known factors are not all one, but for what a fit to rounded weights leaves."""
    known = ~factors.isnan()
    off = (factors[known] - 1).abs()
    if not off.numel():
        return False
    chance = torch.zeros_like(off) if error is None or error.shape != factors.shape else error[known]
    allowed = tolerance.each + _DEVIATIONS * chance
    return bool((off > allowed).any()) or float(off.median()) > tolerance.middle + float(chance.median())
