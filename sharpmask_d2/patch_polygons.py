"""What of a polygon lies in the image."""

import numpy as np


def clip_polygon(points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The part of a polygon within the image's rectangle.

    What is in several pieces then stays one polygon, whose pieces are joined along the borders by
    lines of no width.

    Args:
        points: (n, 2) float64, x and y of the corners in pixels, finite.
        image_size: (height, width).

    Returns:
        (m, 2); m is 0 where the polygon lies outside.

    Source: I. Sutherland, G. Hodgman, Reentrant Polygon Clipping, 1974.
    """
    height, width = image_size
    if (points >= 0).all() and (points <= (width, height)).all():
        return points
    for axis, limit in ((0, width), (1, height)):
        points = _clip_side(points, points[:, axis], axis, 0.0)
        points = _clip_side(points, limit - points[:, axis], axis, float(limit))
    return points


def _clip_side(points: np.ndarray, depth: np.ndarray, axis: int, limit: float) -> np.ndarray:
    """The part of a polygon where ``depth``, (n,), the distance to the line at ``limit``, is
    positive."""
    inside = depth >= 0
    crossing = inside != np.roll(inside, -1)
    with np.errstate(divide="ignore", invalid="ignore"):  # lines that do not cross are not used
        share = (depth / (depth - np.roll(depth, -1)))[:, None]
        cuts = points + share * (np.roll(points, -1, 0) - points)
    cuts[:, axis] = limit
    both = np.stack([points, cuts], 1).reshape(-1, 2)
    clipped: np.ndarray = both[np.stack([inside, crossing], 1).reshape(-1)]
    return clipped
