"""Placement of short texts beside points without overlaps."""

import math
from collections.abc import Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_DIRECTIONS = 16
_RINGS = 8


def place(
    points: Sequence[Point], width: float, height: float, radius: float, bounds: Box
) -> list[Point]:
    """Centres of texts beside their points.

    Each text takes the nearest place, of 16 directions and 8 distances, where it
    overlaps no marker and no earlier text; the least overlapping one if there is none.

    Args:
        points: (x, y) of each marker.
        width, height: size of a text.
        radius: radius of a marker.
        bounds: (x0, y0, x1, y1) in which the texts must lie.
    """
    markers = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    boxes: list[Box] = []
    for x, y in points:
        best, least = _around(x, y, width, height), math.inf
        for ring in range(_RINGS):
            for direction in range(_DIRECTIONS):
                angle = 2 * math.pi * direction / _DIRECTIONS
                reach_x = radius + width / 2 + ring * height * 0.7
                reach_y = radius + height / 2 + ring * height * 0.7
                box = _around(
                    x + reach_x * math.cos(angle),
                    y + reach_y * math.sin(angle),
                    width,
                    height,
                )
                if not _is_inside(box, bounds):
                    continue
                overlap = sum(_overlap(box, other) for other in (*markers, *boxes))
                if overlap < least:
                    best, least = box, overlap
            if least == 0:
                break
        boxes.append(best)
    return [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _is_inside(box: Box, bounds: Box) -> bool:
    return (
        box[0] >= bounds[0]
        and box[1] >= bounds[1]
        and box[2] <= bounds[2]
        and box[3] <= bounds[3]
    )


def _overlap(one: Box, other: Box) -> float:
    """Common area of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
