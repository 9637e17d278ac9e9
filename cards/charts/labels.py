"""Names beside the points of a scatter, placed so that none covers another, or a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, inf, radians, sin

from cards.charts.marks import RADIUS, SIZE, width_of

_DIRECTIONS = (0, 180, 30, -30, 150, -150, 90, -90, 60, -60, 120, -120)
"""In degrees, best first: to the right of the point, to its left, and so on; 90 is below."""
_DISTANCES = (11, 17, 26, 38, 52, 68)
_PAD = 2.0
Spot = tuple[float, float]


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: "Box") -> float:
        """Area of what both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)

    def beyond(self, bounds: "Box") -> float:
        """How far it extends beyond the bounds, in pixels."""
        return (
            max(bounds.left - self.left, 0)
            + max(self.right - bounds.right, 0)
            + max(bounds.top - self.top, 0)
            + max(self.bottom - bounds.bottom, 0)
        )


@dataclass(frozen=True)
class Placed:
    """x, y: of the baseline's end that `anchor` (of SVG's text-anchor) names. lead: ends of a line from the point, None
    where the label is beside it."""

    x: float
    y: float
    anchor: str
    box: Box
    lead: tuple[float, float, float, float] | None


def place(points: Sequence[tuple[float, float, str]], bounds: Box, taken: Sequence[Box] = ()) -> list[Placed]:
    """A place for the label of each point (x, y, label): the nearest that covers least, the crowded points first.

    taken: other things that labels must not cover.
    """
    dots = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y, _ in points]
    boxes = [*dots, *taken]
    placed: dict[int, Placed] = {}
    for index in sorted(range(len(points)), key=lambda i: (_room(i, points), i)):
        x, y, label = points[index]
        others = [(u, v) for i, (u, v, _) in enumerate(points) if i != index]

        def cost(found: tuple[int, Placed], x: float = x, y: float = y, others: list[Spot] = others) -> float:
            return _cost(found[1], boxes, bounds, found[0]) + _mistaken(found[1].box, (x, y), others)

        best = min(_candidates(x, y, label), key=cost)
        placed[index] = best[1]
        boxes.append(best[1].box)
    return [placed[index] for index in range(len(points))]


def along(points: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes on a line through the points, for `taken`."""
    found = []
    for (x1, y1), (x2, y2) in pairwise(points):
        steps = int(hypot(x2 - x1, y2 - y1) // 6) + 1
        for n in range(steps):
            x, y = x1 + (x2 - x1) * n / steps, y1 + (y2 - y1) * n / steps
            found.append(Box(x - 1, y - 1, x + 1, y + 1))
    return found


def _room(index: int, points: Sequence[tuple[float, float, str]]) -> float:
    """To the nearest other point."""
    x, y, _ = points[index]
    return min((hypot(x - u, y - v) for i, (u, v, _) in enumerate(points) if i != index), default=0.0)


def _cost(placed: Placed, others: Sequence[Box], bounds: Box, rank: int) -> float:
    return 40 * placed.box.beyond(bounds) + sum(10 * placed.box.shared(other) for other in others) + rank


def _mistaken(box: Box, own: Spot, others: Sequence[Spot]) -> float:
    """The cost of a label that is nearer to another's point than to its own: it would be read as that one's."""
    nearest = min((_distance(box, other) for other in others), default=inf)
    return 15 * max(0.0, _distance(box, own) + 4 - nearest)


def _distance(box: Box, spot: Spot) -> float:
    x, y = spot
    return hypot(max(box.left - x, 0, x - box.right), max(box.top - y, 0, y - box.bottom))


def _candidates(x: float, y: float, label: str) -> list[tuple[int, Placed]]:
    return [
        (rank, _candidate(x, y, label, direction, distance))
        for rank, (distance, direction) in enumerate((n, d) for n in _DISTANCES for d in _DIRECTIONS)
    ]


def _candidate(x: float, y: float, label: str, direction: int, distance: float) -> Placed:
    width, height = width_of(label), SIZE * 1.15
    dx, dy = cos(radians(direction)), sin(radians(direction))
    near_x, near_y = x + dx * distance, y + dy * distance
    anchor, left = (
        ("start", near_x) if dx > 0.1 else ("end", near_x - width) if dx < -0.1 else ("middle", near_x - width / 2)
    )
    top = near_y - height / 2 + dy * height / 2
    box = Box(left - _PAD, top - _PAD, left + width + _PAD, top + height + _PAD)
    lead = (x + dx * RADIUS, y + dy * RADIUS, near_x - dx * 2, near_y - dy * 2) if distance > _DISTANCES[1] else None
    return Placed(near_x, top + SIZE * 0.92, anchor, box, lead)
