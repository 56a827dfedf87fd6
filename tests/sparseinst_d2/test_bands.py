import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparseinst_d2.bands import BLOCK, Band, bilinear, stretch_cut_stretch

#: Lengths of the small mask, the padded input, the image in it and the output.
LENGTHS = [
    (8, 32, 30, 60),
    (216, 864, 853, 640),
    (160, 640, 600, 3000),
    (25, 100, 77, 13),
    (7, 10, 9, 50),
    (1, 32, 20, 7),
    (8, 32, 1, 5),
    (8, 32, 32, 1),
    (40, 30, 30, 30),
]
each_case = pytest.mark.parametrize("lengths", LENGTHS)


def dense(band: Band, source: int, target: int) -> np.ndarray:
    matrix = np.zeros((target, source), dtype=np.float32)
    for block in band.blocks(0, target):
        matrix[block.start : block.stop, block.first : block.last] = block.weights
    return matrix


def stretch(values: torch.Tensor, length: int) -> torch.Tensor:
    return F.interpolate(values[None, None], size=length, mode="linear", align_corners=False)[0, 0]


@each_case
def test_band_equals_two_interpolations(lengths: tuple[int, ...]) -> None:
    source, padded, image, output = lengths
    values = torch.rand(source)
    expected = stretch(stretch(values, padded)[:image], output)
    matrix = torch.from_numpy(dense(stretch_cut_stretch(*lengths), source, output))
    torch.testing.assert_close(matrix @ values, expected, rtol=1e-5, atol=1e-5)


@each_case
def test_rows_are_means(lengths: tuple[int, ...]) -> None:
    matrix = dense(stretch_cut_stretch(*lengths), lengths[0], lengths[-1])
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert (matrix >= 0).all()


@each_case
def test_dependence_of_targets_and_sources(lengths: tuple[int, ...]) -> None:
    source, *_, output = lengths
    band = stretch_cut_stretch(*lengths)
    used = dense(band, source, output) > 0
    for first in range(0, source, max(1, source // 5)):
        last = min(first + 2, source)
        start, stop = band.targets_of(first, last)
        outside = np.ones(output, dtype=bool)
        outside[start:stop] = False
        assert not used[outside, first:last].any()
    for start in range(0, output, max(1, output // 5)):
        first, last = band.sources_of(start, min(start + 3, output))
        assert not used[start : start + 3, :first].any()
        assert not used[start : start + 3, last:].any()


def test_part_of_the_blocks_is_that_part_of_the_matrix() -> None:
    lengths = (160, 640, 600, 500)
    band = stretch_cut_stretch(*lengths)
    whole = dense(band, 160, 500)
    start, stop = BLOCK - 3, 3 * BLOCK + 2
    parts = list(band.blocks(start, stop))
    assert [part.start for part in parts] == [start, BLOCK, 2 * BLOCK, 3 * BLOCK]
    assert parts[-1].stop == stop
    for part in parts:
        expected = whole[part.start : part.stop]
        np.testing.assert_array_equal(part.weights, expected[:, part.first : part.last])
        assert expected[:, : part.first].sum() + expected[:, part.last :].sum() == 0


def test_taps_by_hand() -> None:
    """Twice as long: the ends repeat, the others lie a quarter of the way."""
    sources, weights = bilinear(2, 4)
    assert sources.tolist() == [[0, 1], [0, 1], [0, 1], [1, 1]]
    assert weights[:, 1].tolist() == [0, 0.25, 0.75, 0.25]
