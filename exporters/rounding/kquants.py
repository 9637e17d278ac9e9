"""ggml's types: of K-quants and IQ4_XS, 256 columns share one or two F16 numbers and each group has a small multiple of
them; of the others, blocks of 32 have F16 numbers of their own."""

from dataclasses import dataclass
from functools import cache

import torch

from exporters.rounding.format import Levels

SPAN = 256
_TINY = 1e-30
_LARGEST = 65504.0
"""Of F16."""
_MIDDLE = 256
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_BEYOND = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
"""Where the largest weight may stand: at the end of the levels, or so much beyond it."""
ENDS = (
    (1.0, 1.0), (1.05, 1.05), (0.92, 0.92), (0.85, 0.85), (0.78, 0.78),
    (1.0, 0.88), (0.88, 1.0), (0.75, 0.9), (0.9, 0.75),
)  # fmt: skip
"""The smallest and the largest weight that the levels reach to, as parts of those of the group."""
NUDGE = 1.02
"""Between neighboring scales of groups that share nothing."""
STEPS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
"""Multiples of the scale and of the minimum near those that a group has."""


@dataclass(frozen=True)
class Scaled:
    """value = d * multiple * level: Q3_K, Q6_K, IQ4_XS; and value = d * level: Q8_0, Q5_0, Q4_0, IQ4_NL.

    low, high: the smallest and the largest level, between which all integers are levels unless there is a codebook.
    multiples: the smallest and the largest. A group's one parameter is d * multiple; a span shares d. span: None where
    each group has its own, without multiples. beyond: where the largest weight may stand.
    """

    group: int
    low: int
    high: int
    multiples: tuple[int, int] = (1, 1)
    codebook: tuple[int, ...] = ()
    span: int | None = SPAN
    beyond: tuple[float, ...] = _BEYOND

    @property
    def levels(self) -> Levels:
        if not self.codebook:
            return Levels("steps", self.low, self.high)
        return Levels("table", -_MIDDLE, _MIDDLE - 1, table=_nearest_in(self.codebook, torch.device("cpu")))

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> torch.Tensor | None:
        """d, by which the largest of the groups' best scales is the smallest multiple (the farthest from zero)."""
        if self.span is None:
            return None
        batch, span, rows = left.shape
        groups = left.reshape(-1, self.group, rows)
        tried = self._tried(groups)
        error, cross, square = _errors(self, groups, importance, tried[None])
        best = error.argmin(1, keepdim=True)
        fitted = (cross / square.clamp(min=_TINY)).gather(1, best)  # least squares for the codes of that scale
        scale = tried.gather(1, best) * torch.where(fitted > 0, fitted, 1.0)
        scale = scale.view(batch, span // self.group, rows)
        largest = scale.gather(1, scale.abs().argmax(1, keepdim=True))
        return (largest / self.multiples[0]).half().float().permute(1, 0, 2)

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        return self._multiples(self._tried(left), shared)

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        """The scale that is held, the one that fits the codes by least squares, and their neighbors."""
        weighted = moments @ values
        fitted = held[0] * (weighted * best).sum(1) / (weighted * values).sum(1).clamp(min=_TINY)
        if shared is None:
            return self._multiples(torch.stack([held[0], fitted, fitted / NUDGE, fitted * NUDGE], 1), None)
        steps = torch.tensor([0.0, 1.0, -1.0], device=held.device)[None, :, None] * shared[0, :, None]
        return self._multiples(torch.cat([held[0, :, None] + steps, fitted[:, None] + steps], 1), shared)

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _inverse(parameters[0]), parameters[0]

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale = ready
        level = torch.mul(values, inverse, out=out)
        if not self.codebook:
            return level.round_().clamp_(self.low, self.high).mul_(scale)
        place = level.mul_(2).floor_().add_(_MIDDLE).clamp_(0, 2 * _MIDDLE - 1).to(torch.int32)
        table = _nearest_in(self.codebook, values.device)
        return torch.mul(table.index_select(0, place.flatten()).view(place.shape), scale, out=out)

    def _tried(self, left: torch.Tensor) -> torch.Tensor:
        """Scales by which the largest weight stands at the lowest or the highest level: [B, n, R] -> [B, K, R]."""
        largest = left.gather(1, left.abs().argmax(1, keepdim=True))
        beyond = largest * torch.tensor(self.beyond, device=left.device)[None, :, None]
        return torch.cat([beyond / self.low, beyond / self.high], 1)

    def _multiples(self, scales: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        """The multiples of d nearest to scales [B, K, R], or the F16 numbers: [1, B, K, R]."""
        if shared is None:
            return _stored(scales)[None]
        d = shared[0, :, None]
        return ((scales / torch.where(d == 0, 1.0, d)).round_().clamp_(*self.multiples) * d)[None]


@dataclass(frozen=True)
class ScaledWithMinimum:
    """value = d * multiple * level - dmin * multiple of the minimum: Q4_K, Q5_K; and d * level - minimum: Q4_1, Q5_1.

    high: the largest level. A group's parameters are d * multiple and dmin * multiple; a span shares d and dmin. span:
    None where each group has its own, without multiples.
    """

    group: int
    high: int
    multiples: int = 63
    span: int | None = SPAN

    @property
    def levels(self) -> Levels:
        return Levels("minimum", 0, self.high)

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> torch.Tensor | None:
        """d and dmin, by which the largest of the groups' best scales and minima are the largest multiples."""
        if self.span is None:
            return None
        batch, span, rows = left.shape
        groups = left.reshape(-1, self.group, rows)
        tried = self._tried(groups)
        best = _errors(self, groups, importance, tried)[0].argmin(1, keepdim=True)
        found = tried.gather(2, best[None].expand(2, -1, -1, -1)).view(2, batch, span // self.group, rows)
        return (found.amax(2) / self.multiples).half().float()

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        return self._multiples(self._tried(left), shared)

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        """Those that fit the codes by least squares, those that are held, and their neighbors."""
        fitted = self._fitted(held, best, values, moments)
        if shared is None:
            scales = torch.stack([held[0], fitted[0], fitted[0] / NUDGE, fitted[0] * NUDGE], 1)
            return self._multiples(torch.stack([scales, torch.stack([held[1], *[fitted[1]] * 3], 1)]), None)
        steps = torch.tensor(STEPS, dtype=torch.float32, device=held.device).t()[:, None, :, None]
        near = held[:, :, None] + steps * shared[:, :, None]
        return self._multiples(torch.cat([fitted[:, :, None], near], 2), shared)

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale, minimum = parameters
        return _inverse(scale), scale, minimum

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale, minimum = ready
        level = torch.add(values, minimum, out=out).mul_(inverse).round_().clamp_(0, self.high)
        return level.mul_(scale).sub_(minimum)

    def _fitted(
        self, held: torch.Tensor, best: torch.Tensor, values: torch.Tensor, moments: torch.Tensor
    ) -> torch.Tensor:
        """Scale and minimum by which scale * level - minimum is nearest to `best`, for the levels as they are."""
        scale, minimum = held
        level = (values + minimum[:, None]) / torch.where(scale == 0, torch.inf, scale)[:, None]
        of_level, of_best = moments @ level, moments @ best
        ll, l1, lb = (of_level * level).sum(1), of_level.sum(1), (of_best * level).sum(1)
        one, b1 = moments.sum((1, 2))[:, None], of_best.sum(1)
        determinant = ll * one - l1 * l1
        sound = determinant > 1e-6 * ll * one
        determinant = torch.where(sound, determinant, 1.0)
        fitted = torch.stack([(lb * one - l1 * b1) / determinant, (lb * l1 - ll * b1) / determinant])
        return torch.where(sound, fitted, held)

    def _tried(self, left: torch.Tensor) -> torch.Tensor:
        """Scales and minima: [B, n, R] -> [2, B, K, R]."""
        ends = torch.tensor(ENDS, device=left.device)[..., None]
        low = left.amin(1).clamp(max=0)[:, None] * ends[:, 0]
        high = left.amax(1).clamp(min=0)[:, None] * ends[:, 1]
        return torch.stack([(high - low) / self.high, -low])

    def _multiples(self, parameters: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        if shared is None:
            return _stored(parameters)
        unit = shared[:, :, None]
        return (parameters / torch.where(unit == 0, 1.0, unit)).round_().clamp_(0, self.multiples) * unit


def _stored(numbers: torch.Tensor) -> torch.Tensor:
    """As F16 holds them."""
    return numbers.clamp(-_LARGEST, _LARGEST).half().float()


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    """0 where the scale is: every level means 0 then."""
    return torch.where(scale == 0, 0.0, scale.reciprocal())


@cache
def _nearest_in(codebook: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The number of the codebook nearest to each half from -_MIDDLE / 2 on: what lies halfway between two of its
    integers is a multiple of a half."""
    book = torch.tensor(codebook, dtype=torch.float32, device=device)
    halves = torch.arange(-_MIDDLE, _MIDDLE, device=device) / 2
    return book[torch.bucketize(halves, (book[1:] + book[:-1]) / 2, right=True)]


def _errors(
    form: Scaled | ScaledWithMinimum, groups: torch.Tensor, importance: torch.Tensor, tried: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For groups [N, n, R] and parameters [P, N, K, R], the weighted sums over each group of (value - rounded)^2, of
    value * rounded and of rounded^2: [N, K, R] each."""
    weight = importance.reshape(-1, form.group)[:, :, None, None]
    ready = form.ready(tried)
    error = torch.zeros_like(tried[0])
    cross, square, rounded = torch.zeros_like(error), torch.zeros_like(error), torch.empty_like(error)
    for column in range(form.group):
        value = groups[:, column, None].expand_as(error)
        form.nearest(value, ready, rounded)
        error += (value - rounded).square_().mul_(weight[:, column])
        weighted = rounded * weight[:, column]
        cross += weighted * value
        square += weighted.mul_(rounded)
    return error, cross, square


FORMS: dict[str, Scaled | ScaledWithMinimum] = {
    "Q3_K": Scaled(16, -4, 3, (-32, 31)),
    "Q4_K": ScaledWithMinimum(32, 15),
    "Q5_K": ScaledWithMinimum(32, 31),
    "Q6_K": Scaled(16, -32, 31, (-128, 127)),
    "IQ4_XS": Scaled(32, -127, 113, (-32, 31), _IQ4),
    "Q4_0": Scaled(32, -8, 7, span=None),
    "Q4_1": ScaledWithMinimum(32, 15, span=None),
    "Q5_0": Scaled(32, -16, 15, span=None),
    "Q5_1": ScaledWithMinimum(32, 31, span=None),
    "IQ4_NL": Scaled(32, -127, 113, codebook=_IQ4, span=None),
    "Q8_0": Scaled(32, -127, 127, span=None, beyond=(1.0,)),
}
