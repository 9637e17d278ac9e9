"""Shares with their intervals, pass@k, and the paired comparison of two runs. Plain functions of counts."""

import random
from collections.abc import Callable, Sequence
from math import comb, exp, lgamma, log, log1p

LEVEL = 0.95
_STEPS = 100
_RESAMPLED = 2000

Interval = tuple[float, float]


def exact_interval(successes: int, trials: int) -> Interval:
    """Clopper and Pearson (1934): the probabilities under which as many successes or more, and as many or fewer, are at
    least as likely as half of what LEVEL leaves. (0, 1) of no trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials}")
    tail = (1 - LEVEL) / 2
    low = 0.0 if successes == 0 else _root(lambda p: 1 - at_most(successes - 1, trials, p) >= tail)
    high = 1.0 if successes == trials else _root(lambda p: at_most(successes, trials, p) <= tail)
    return low, high


def at_most(successes: int, trials: int, p: float) -> float:
    """P(X <= successes) of a binomial X."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or successes >= trials else 0.0
    return min(
        1.0, sum(exp(_log_comb(trials, i) + i * log(p) + (trials - i) * log1p(-p)) for i in range(successes + 1))
    )


def pass_at(k: int, samples: int, passed: int) -> float:
    """The unbiased estimate of the share of k answers among which one passes: 1 - C(n - c, k) / C(n, k) (Chen et al.,
    2021, "Evaluating Large Language Models Trained on Code", equation 1)."""
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} of {samples}")
    return 1 - comb(samples - passed, k) / comb(samples, k)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of the exact test: that of the problems which changed sides, either direction is as likely."""
    changed = gained + lost
    return min(1.0, 2 * sum(comb(changed, i) for i in range(min(gained, lost) + 1)) / 2**changed)


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """Of the mean: percentiles of the means of resampled values (Efron, 1979), with a fixed seed."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(_RESAMPLED))
    tail = (1 - LEVEL) / 2
    return means[int(tail * _RESAMPLED)], means[int((1 - tail) * _RESAMPLED) - 1]


def _log_comb(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _root(holds: Callable[[float], bool]) -> float:
    """The least p for which a condition that holds from some p on holds."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2
