"""Labels for points that do not cover each other: near their point where there is room, further away otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle; units are points, y upwards."""

    left: float
    bottom: float
    width: float
    height: float

    def overlap(self, other: "Box") -> float:
        """The area that two boxes share."""
        wide = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        high = min(self.bottom + self.height, other.bottom + other.height) - max(self.bottom, other.bottom)
        return max(wide, 0.0) * max(high, 0.0)

    def outside(self, frame: "Box") -> float:
        """The area that lies outside a frame."""
        return self.width * self.height - self.overlap(frame)


# Directions tried in this order: right, left, above, below, then the diagonals.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_REACH = (5.0, 10.0, 17.0, 26.0, 37.0, 50.0, 65.0, 82.0)


def place_labels(
    anchors: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box, *, radius: float = 4.0
) -> tuple[Box, ...]:
    """Find a place for every label.

    Args:
        anchors: N points (x, y), the most important first: they choose first.
        sizes: N label sizes (width, height).
        frame: where labels must stay.
        radius: half the size of a point's marker, kept free.

    Returns:
        N boxes. They do not overlap each other or a marker where that can be had; otherwise the place with the
        least overlap is taken.
    """
    markers = [Box(left=x - radius, bottom=y - radius, width=2 * radius, height=2 * radius) for x, y in anchors]
    placed: list[Box] = []
    for (x, y), size in zip(anchors, sizes, strict=True):
        best, best_cost = None, float("inf")
        for candidate in _candidates(x, y, size):
            taken = sum(candidate.overlap(box) for box in (*markers, *placed))
            cost = taken + 4 * candidate.outside(frame)
            if cost < best_cost - 1e-9:
                best, best_cost = candidate, cost
            if best_cost <= 0:
                break
        assert best is not None, "there is always a candidate"
        placed.append(best)
    return tuple(placed)


def _candidates(x: float, y: float, size: tuple[float, float]) -> list[Box]:
    width, height = size
    found: list[Box] = []
    for reach in _REACH:
        for dx, dy in _DIRECTIONS:
            left = x + reach if dx > 0 else x - reach - width if dx < 0 else x - width / 2
            bottom = y + reach if dy > 0 else y - reach - height if dy < 0 else y - height / 2
            found.append(Box(left=left, bottom=bottom, width=width, height=height))
    return found
