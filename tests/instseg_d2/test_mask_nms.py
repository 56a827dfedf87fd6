import numpy as np
import pycocotools.mask as mask_util
import pytest

from instseg_d2.mask_nms import highest_iou, mask_nms
from instseg_d2.rle_masks import RLEMasks

HEIGHT, LENGTH = 30, 40


def masks_of(bitmaps: np.ndarray) -> RLEMasks:
    fortran = np.asfortranarray(bitmaps.transpose(1, 2, 0).astype(np.uint8))
    return RLEMasks(mask_util.encode(fortran), bitmaps.shape[1:])


def rectangles(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Bitmaps; boxes are (left, top, right, bottom)."""
    bitmaps = np.zeros((len(boxes), HEIGHT, LENGTH), bool)
    for bitmap, (left, top, right, bottom) in zip(bitmaps, boxes, strict=True):
        bitmap[top:bottom, left:right] = True
    return bitmaps


def all_ious(bitmaps: np.ndarray) -> np.ndarray:
    flat = bitmaps.reshape(len(bitmaps), -1).astype(float)
    shared = flat @ flat.T
    areas = flat.sum(1)
    return shared / np.maximum(areas[:, None] + areas - shared, 1)


def brute_force(bitmaps: np.ndarray, threshold: float) -> list[int]:
    ious, kept = all_ious(bitmaps), []
    for index in range(len(bitmaps)):
        if all(ious[index, better] <= threshold for better in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_plain_way(threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 20, (40, 2))
    sides = rng.integers(3, 15, (40, 2))
    bitmaps = rectangles(*np.hstack([corners, corners + sides]).tolist())
    bitmaps &= rng.random(bitmaps.shape) < 0.9
    expected = brute_force(bitmaps, threshold)
    if threshold in (0.1, 0.5):
        assert len(expected) < 40
    if threshold == 1:
        expected = list(range(40))
    assert mask_nms(masks_of(bitmaps), threshold) == expected


def test_what_a_dropped_mask_overlaps_may_stay() -> None:
    """The second is dropped for the first; the third overlaps only the second."""
    bitmaps = rectangles((0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10))
    assert mask_nms(masks_of(bitmaps), 0.5) == [0, 2]


def test_at_the_threshold_it_stays() -> None:
    bitmaps = rectangles((0, 0, 10, 10), (5, 0, 15, 10))  # 50 of 150 pixels
    assert mask_nms(masks_of(bitmaps), 1 / 3) == [0, 1]
    assert mask_nms(masks_of(bitmaps), 0.33) == [0]


def test_equal_masks_in_boxes_that_differ_are_found() -> None:
    """Judged by the boxes' IoU these two would be strangers."""
    bitmaps = rectangles((0, 0, 10, 10), (0, 0, 10, 10))
    bitmaps[1, 29, 39] = True
    assert mask_nms(masks_of(bitmaps), 0.9) == [0]


def test_same_box_other_mask_stays() -> None:
    bitmaps = np.zeros((2, HEIGHT, LENGTH), bool)
    bitmaps[0, ::2], bitmaps[1, 1::2] = True, True
    bitmaps[:, [0, -1]] = True
    assert mask_nms(masks_of(bitmaps), 0.5) == [0, 1]


def test_only_pairs_that_may_overlap_so_much_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    iou = mask_util.iou
    monkeypatch.setattr(mask_util, "iou", lambda a, b, c: compared.append(len(a)) or iou(a, b, c))
    apart = rectangles(*[(x, 0, x + 6, 8) for x in range(0, 40, 5)])  # 8 of 88 pixels are shared
    larger = rectangles((0, 0, 40, 30), (0, 0, 6, 8))
    assert mask_nms(masks_of(np.concatenate([larger, apart[1:]])), 0.2) == list(range(9))
    assert not compared
    mask_nms(masks_of(apart), 0.05)
    assert sum(compared) == 4  # every second one is dropped for the one before


def test_the_bound_is_one() -> None:
    rng = np.random.default_rng(0)
    bitmaps = rng.random((30, HEIGHT, LENGTH)) < rng.random((30, 1, 1))
    bitmaps &= rectangles(*[(x, x // 2, x + 12, x + 9) for x in range(30)])
    bitmaps[3] = False
    assert (highest_iou(masks_of(bitmaps)) >= all_ious(bitmaps) - 1e-12).all()


@pytest.mark.parametrize("count", [0, 1, 300])
def test_none_one_and_many(count: int) -> None:
    bitmaps = rectangles(*[(2, 3, 9, 9)] * count) if count else np.zeros((0, HEIGHT, LENGTH), bool)
    assert mask_nms(RLEMasks([], (HEIGHT, LENGTH)) if not count else masks_of(bitmaps), 0.5) == (
        [0] if count else []
    )
