"""Box, area and medians of masks, and the place of their labels, against the plain definitions."""

import numpy as np
import pytest

from instseg_d2.mask_extent import MaskExtent
from instseg_d2.visualize import label_anchor


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [rng.random((rng.integers(1, 80), rng.integers(1, 40))) < 0.3 for _ in range(200)]
    corner = np.zeros((7, 9), bool)
    corner[6, 8] = True
    two = corner.copy()
    two[0, 3] = True  # even in number: the median lies between them
    large_side = np.ones((3, 70000), bool)
    return [*masks, corner, two, np.asfortranarray(two), large_side, np.ones((1, 1), bool)]


def test_the_sums_say_what_all_pixels_say() -> None:
    for mask in filter(np.any, some_masks()):
        extent = MaskExtent.of(mask)
        ys, xs = mask.nonzero()
        assert extent.area == len(ys)
        assert extent.box == (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
        assert extent.median == (np.median(xs), np.median(ys))


@pytest.mark.parametrize("font_size", [1.0, 13.0])
def test_labels_lie_inside_large_masks_and_above_small_ones(font_size: float) -> None:
    is_inside = []
    for mask in some_masks():
        anchor = label_anchor(MaskExtent.of(mask), font_size)
        ys, xs = mask.nonzero()
        if not len(ys):
            assert anchor is None
            continue
        is_inside.append(ys.max() - ys.min() >= 3 * font_size)
        if is_inside[-1]:
            assert anchor == (np.median(xs), np.median(ys) - font_size / 2)
        else:
            assert anchor == ((xs.min() + xs.max()) / 2, ys.min() - 1.6 * font_size)
    assert any(is_inside)
    assert not all(is_inside)


def test_an_empty_mask_has_no_extent() -> None:
    extent = MaskExtent.of(np.zeros((5, 6), bool))
    assert extent.area == 0
    assert extent.box == (slice(0, 0), slice(0, 0))
    assert label_anchor(extent, 13.0) is None
