"""What the experts of a layer have in common in what they read, and how far each one's own moments are to be trusted.

An expert that saw n tokens has mean second moments M whose squared error, by chance alone, is about

    v = (tr(M)^2 + tr(M^2)) / n        (exact for normal inputs; Ledoit and Wolf 2004)

and they differ by d = |M - A|^2 from the common ones A. v / d, at most 1, is the share of what makes M differ that is
chance: what a reader takes from A instead.
"""

import torch

from sixfold.statistics.moments import pack, share_of_chance


def common_moments(moments: torch.Tensor, count: torch.Tensor) -> dict[str, torch.Tensor]:
    """moments: float32 [E, C, C], sums over tokens of x x^T. count: int64 [E].

    moments_common: float16, packed: their sum, with the correlations as far as experts share them. moments_chance:
    float32 [E], 1 for an expert without a token.
    """
    common = moments.sum(0)
    diagonal = common.diagonal().clone()
    common *= shared(moments, count)
    common.diagonal().copy_(diagonal)
    mean = common / max(int(count.sum()), 1)
    chance = [
        share_of_chance(each / max(seen, 1), mean, seen) for each, seen in zip(moments, count.tolist(), strict=True)
    ]
    return {"moments_common": pack(common).cpu(), "moments_chance": torch.tensor(chance)}


def shared(moments: torch.Tensor, count: torch.Tensor) -> float:
    """The factor by which the correlations among the other experts' channels foretell an expert's own, 0 to 1.

    By least squares over experts, weighted with their tokens, of the off-diagonal mean moments of one upon those of all
    others together: every product has a token on one side only, so that few tokens blur the factor and do not raise it.
    What experts' first projections read is nearly the same for all of a trained model (0.9 and more), what their last
    ones read is each one's own (0). 1 where fewer than two experts saw a token.
    """
    total, tokens = moments.sum(0), int(count.sum())
    both = own = 0.0
    for each, seen in zip(moments, count.tolist(), strict=True):
        if 0 < seen < tokens:
            others = (total - each) / (tokens - seen)
            others.diagonal().zero_()
            both += float((others * each).sum())  # each is `seen` times its mean
            own += float(others.square().sum()) * seen
    return min(1.0, max(0.0, both / own)) if own > 0 else 1.0
