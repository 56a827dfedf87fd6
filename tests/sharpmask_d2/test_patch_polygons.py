import numpy as np
import pytest

from sharpmask_d2.patch_polygons import clip_polygon

SIZE = (60, 80)  # height, width


def area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([(-10, -10), (20, -10), (20, 30), (-10, 30)], 20 * 30),
        ([(-10, -10), (200, -10), (200, 300), (-10, 300)], 80 * 60),
        ([(70, 50), (1e9, 50), (1e9, 1e9), (70, 1e9)], 10 * 10),
        ([(-10, 10), (10, 30), (-10, 50)], 10 * 20 / 2),  # a triangle whose base is outside
        ([(-80, 0), (80, -160), (80, 160)], 80 * 60),  # it covers all of the image
        # A U that lies on its side, both arms and not the base inside: 2 * 20 * 10.
        ([(60, 10), (99, 10), (99, 50), (60, 50), (60, 40), (90, 40), (90, 20), (60, 20)], 400),
    ],
)
def test_what_is_left_is_what_lies_inside(corners: list, expected: float) -> None:
    for order in (1, -1):
        clipped = clip_polygon(np.array(corners, float)[::order], SIZE)
        assert clipped.min() >= 0
        assert (clipped <= (80, 60)).all()
        assert area(clipped) == pytest.approx(expected)


def test_inside_nothing_changes() -> None:
    points = np.array([[0, 0], [80, 0], [80, 60], [3.7, 41.2]])
    np.testing.assert_array_equal(clip_polygon(points, SIZE), points)


@pytest.mark.parametrize("shift", [(200, 0), (0, 200), (-200, 0), (-200, -200)])
def test_outside_nothing_is_left(shift: tuple[int, int]) -> None:
    points = np.array([[10, 10], [30, 10], [30, 30.0]]) + shift
    assert len(clip_polygon(points, SIZE)) == 0
    assert len(clip_polygon(np.zeros((0, 2)), SIZE)) == 0
