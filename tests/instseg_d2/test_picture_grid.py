import numpy as np
import pytest
from matplotlib import pyplot

from instseg_d2.picture_grid import picture_grid


def grey(height=30, width=40):
    return np.full((height, width, 3), 90, np.uint8)


def test_grid_places_pictures_in_rows_and_columns():
    red, green = np.zeros((2, 50, 100, 3), np.uint8)
    red[..., 0], green[..., 1] = 200, 200
    blue = np.zeros((30, 10, 3), np.uint8)
    blue[..., 2] = 200
    figures = pyplot.get_fignums()
    grid = picture_grid([(red, green), (green, blue)], ("left", "right"), cell=60, gap=10)
    title = grid.shape[0] - (30 + 10) - (60 + 10)
    assert grid.shape[1] == 2 * 60 + 3 * 10
    assert title > 10
    assert (grid[:title] < 100).any(), "titles are written"
    assert grid[title + 15, 40].tolist() == [200, 0, 0]
    assert grid[title + 15, 110].tolist() == [0, 200, 0]
    assert grid[title + 40 + 30, 40].tolist() == [0, 200, 0]
    # 10 x 30 becomes 20 x 60, in the middle of its cell.
    assert grid[title + 40 + 30, 110].tolist() == [0, 0, 200]
    assert grid[title + 40 + 30, 95].tolist() == [255, 255, 255]
    assert grid[title + 35, 40].tolist() == [255, 255, 255]
    assert pyplot.get_fignums() == figures


@pytest.mark.parametrize("rows", [[], [(grey(),)], [(grey(), grey(), grey()), (grey(),)]])
def test_grid_needs_full_rows(rows):
    with pytest.raises(ValueError, match="expected rows of 3"):
        picture_grid(rows)


def test_grid_of_very_uneven_pictures_and_odd_widths():
    for cell in (60, 61, 97, 203):
        grid = picture_grid([(grey(1, 500), grey(500, 1), grey(3, 3))], cell=cell)
        assert grid.shape[1] == 3 * cell + 4 * 8
