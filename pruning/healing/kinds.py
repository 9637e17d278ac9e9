"""Which tokens are of one kind of text: what a fit is tried on must be unlike what it was fitted to.

Domains and files do not say it: a folder may hold ten files of one kind, one file all kinds, and a sample parts of two.
So pieces of SEGMENT tokens are grouped by what they are made of: k-means over the direction of their mean embedding
from the mean of all. That tells languages, code, mathematics and prose apart.
"""

import torch

KINDS = 8
SEGMENT = 64
_ROUNDS = 50


def segment_means(embedded: torch.Tensor) -> torch.Tensor:
    """embedded [samples, length, ...]: a batch's embeddings. Returns float32 [samples, segments, channels] on the CPU;
    the last segment of a sample may be shorter."""
    values = embedded.flatten(2)
    return torch.stack([part.float().mean(1) for part in values.split(SEGMENT, 1)], 1).cpu()


def by_token(kinds: torch.Tensor, length: int) -> torch.Tensor:
    """int64 [samples * length], of kinds [samples, segments]."""
    return kinds.repeat_interleave(SEGMENT, 1)[:, :length].flatten()


def kinds_of(vectors: torch.Tensor) -> torch.Tensor:
    """int64 [segments], from 0, numbered by first appearance. vectors [segments, channels]: their mean embeddings.

    KINDS at most, and of fewer than four segments to a kind as many fewer. Begins from segments drawn far from each
    other with a fixed seed (k-means++, Arthur and Vassilvitskii 2007): the same text gives the same kinds.
    """
    centered = vectors.double().cpu() - vectors.double().cpu().mean(0)
    points = centered / centered.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    centers = _far_apart(points, max(1, min(KINDS, len(points) // 4)))
    kinds = torch.cdist(points, centers).argmin(1)
    for _ in range(_ROUNDS):
        present = kinds.unique()
        centers = torch.stack([points[kinds == kind].mean(0) for kind in present])
        moved = torch.cdist(points, centers).argmin(1)
        if torch.equal(present[moved], kinds):
            break
        kinds = moved
    return _numbered(kinds)


def _far_apart(points: torch.Tensor, count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    chosen = [int(torch.randint(len(points), (1,), generator=draw))]
    for _ in range(count - 1):
        distance = torch.cdist(points, points[chosen]).amin(1).square()
        if not distance.any():
            break
        chosen.append(int(torch.multinomial(distance, 1, generator=draw)))
    return points[chosen]


def _numbered(kinds: torch.Tensor) -> torch.Tensor:
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(kind, len(numbers)) for kind in kinds.tolist()])
