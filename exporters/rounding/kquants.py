"""ggml's K-quants and IQ4_XS: 256 columns share one or two F16 numbers, and their groups have small integers of them."""

from dataclasses import dataclass

import torch

SPAN = 256
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Scaled:
    """value = d * multiple * level: Q3_K, Q6_K, IQ4_XS. low, high: the smallest and largest level; multiples likewise.

    A group's one parameter is d * multiple; a span shares d.
    """

    group: int
    low: int
    high: int
    multiples: tuple[int, int]
    codebook: tuple[int, ...] = ()
    span: int = SPAN

    def _tried(self, left: torch.Tensor) -> torch.Tensor:
        """Real scales to try: [B, n, R] -> [B, K, R]."""
        place = left.abs().argmax(1, keepdim=True)
        largest = left.gather(1, place)  # signed
        # The largest may stand at either end of the levels, or somewhat beyond it.
        stretch = torch.tensor([1.0, 0.92, 0.85, 0.78, 0.7], device=left.device)[None, :, None]
        return torch.cat([largest * stretch / self.low, largest * stretch / self.high], 1)

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        batch, span, rows = left.shape
        groups = left.reshape(batch * (span // self.group), self.group, rows)
        weight = importance.reshape(-1, self.group)[:, :, None, None]
        tried = self._tried(groups)[None]  # [1, BG, K, R]
        spread = groups[:, :, None].expand(-1, -1, tried.shape[2], -1)
        error = torch.zeros_like(tried[0])
        cross, square = torch.zeros_like(error), torch.zeros_like(error)
        for j in range(self.group):
            value = self.nearest(spread[:, j], tried, torch.empty_like(error))
            error += (spread[:, j] - value).square_() * weight[:, j]
            cross += spread[:, j] * value * weight[:, j]
            square += value.square() * weight[:, j]
        best = error.argmin(1, keepdim=True)
        fit = (cross / square.clamp(min=_SMALLEST)).gather(1, best)
        scale = (tried[0].gather(1, best) * torch.where(fit > 0, fit, 1.0)).view(batch, span // self.group, rows)
        largest = scale.gather(1, scale.abs().argmax(1, keepdim=True))
        return (largest / self.multiples[0]).half().float().permute(1, 0, 2)

    def candidates(self, left, importance, shared, index):
        return self._of(self._tried(left), shared[0][:, None])

    def around(self, held, best, values, moments, shared):
        weighted = moments @ values
        fit = (weighted * best).sum(1) / (weighted * values).sum(1).clamp(min=_SMALLEST)
        d = shared[0]
        steps = torch.tensor([0.0, 1, -1], device=held.device)[None, :, None] * d[:, None]
        return self._of(torch.cat([held[0][:, None] + steps, (held[0] * fit)[:, None] + steps], 1), d[:, None])

    def _of(self, scales: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        multiple = (scales / torch.where(d == 0, 1.0, d)).round_().clamp_(*self.multiples)
        return (multiple * d)[None]

    def nearest(self, values, parameters, out):
        scale = parameters[0]
        exact = values / torch.where(scale == 0, torch.inf, scale)
        if self.codebook:
            book = torch.tensor(self.codebook, dtype=torch.float32, device=values.device)
            level = book[torch.bucketize(exact, (book[1:] + book[:-1]) / 2)]
        else:
            level = exact.round_().clamp_(self.low, self.high)
        return torch.mul(level, scale, out=out)


@dataclass(frozen=True)
class ScaledWithMinimum:
    """value = d * multiple * level - dmin * multiple of the minimum: Q4_K, Q5_K.

    Parameters: d * multiple, dmin * multiple. A span shares d and dmin.
    """

    group: int
    high: int
    multiples: int = 63
    span: int = SPAN

    def _tried(self, left: torch.Tensor) -> torch.Tensor:
        """[B, n, R] -> [2, B, K, R]."""
        low, high = left.amin(1).clamp(max=0)[:, None], left.amax(1).clamp(min=0)[:, None]
        ends = [
            (1, 1),
            (0.92, 0.92),
            (0.85, 0.85),
            (0.78, 0.78),
            (1, 0.88),
            (0.88, 1),
            (0.75, 0.9),
            (0.9, 0.75),
            (1.05, 1.05),
        ]
        ends = torch.tensor(ends, device=left.device)[..., None]
        low, high = low * ends[:, 0], high * ends[:, 1]
        return torch.stack([(high - low) / self.high, -low])

    def open(self, left, importance):
        batch, span, rows = left.shape
        number = span // self.group
        groups = left.reshape(batch * number, self.group, rows)
        weight = importance.reshape(-1, self.group)[:, :, None, None]
        tried = self._tried(groups)
        spread = groups[:, :, None].expand(-1, -1, tried.shape[2], -1)
        error = torch.zeros_like(tried[0])
        for j in range(self.group):
            value = self.nearest(spread[:, j], tried, torch.empty_like(error))
            error += (spread[:, j] - value).square_() * weight[:, j]
        best = error.argmin(1, keepdim=True)
        found = tried.gather(2, best[None].expand(2, -1, -1, -1)).view(2, batch, number, rows)
        return (found.amax(2) / self.multiples).half().float()

    def candidates(self, left, importance, shared, index):
        return self._of(self._tried(left), shared[:, :, None])

    def around(self, held, best, values, moments, shared):
        scale, minimum = held
        steps = torch.where(
            scale[:, None] == 0, 0.0, (values + minimum[:, None]) / torch.where(scale == 0, 1.0, scale)[:, None]
        )
        # Least squares of best = scale * steps - minimum under the moments.
        m_steps, m_best, m_ones = moments @ steps, moments @ best, moments.sum(-1)[..., None]
        ss, s1, oo = (m_steps * steps).sum(1), m_steps.sum(1), moments.sum((-1, -2))[:, None]
        sb, ob = (m_best * steps).sum(1), m_best.sum(1)
        determinant = ss * oo - s1 * s1
        safe = determinant.abs() > 1e-6 * ss * oo
        determinant = torch.where(safe, determinant, 1.0)
        fit_scale = torch.where(safe, (sb * oo - s1 * ob) / determinant, scale)
        fit_min = torch.where(safe, (sb * s1 - ss * ob) / determinant, minimum)
        scales, minima = [scale, fit_scale], [minimum, fit_min]
        d, dmin = shared
        for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1)):
            scales.append(scale + i * d)
            minima.append(minimum + j * dmin)
        return self._of(torch.stack([torch.stack(scales, 1), torch.stack(minima, 1)]), shared[:, :, None])

    def _of(self, parameters: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        multiple = (parameters / torch.where(shared == 0, 1.0, shared)).round_().clamp_(0, self.multiples)
        return multiple * shared

    def nearest(self, values, parameters, out):
        scale, minimum = parameters
        level = ((values + minimum) / torch.where(scale == 0, torch.inf, scale)).round_().clamp_(0, self.high)
        return torch.sub(level.mul_(scale), minimum, out=out)


FORMS = {
    "Q3_K": Scaled(16, -4, 3, (-32, 31)),
    "Q4_K": ScaledWithMinimum(32, 15),
    "Q5_K": ScaledWithMinimum(32, 31),
    "Q6_K": Scaled(16, -32, 31, (-128, 127)),
    "IQ4_XS": Scaled(32, -127, 113, (-32, 31), _IQ4),
}
