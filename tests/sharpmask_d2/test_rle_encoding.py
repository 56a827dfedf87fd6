import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpmask_d2.rle_encoding import Runs, encode_runs, joined


def runs_in_columns(bitmaps: np.ndarray) -> tuple[np.ndarray, ...]:
    """The runs of each column of masks (n, H, L), which may touch the next column's."""
    height = bitmaps.shape[1]
    edges = np.diff(np.pad(bitmaps.astype(np.int8), ((0, 0), (1, 1), (0, 0))), axis=1)
    # (mask, column, row): in the order in which codes list pixels
    masks, columns, starts = np.nonzero(edges.transpose(0, 2, 1) == 1)
    _, _, ends = np.nonzero(edges.transpose(0, 2, 1) == -1)
    return masks, columns * height + starts, columns * height + ends


def encode(bitmaps: np.ndarray) -> list[dict]:
    return encode_runs(joined(*runs_in_columns(bitmaps)), len(bitmaps), bitmaps.shape[1:])


def pycocotools_codes(bitmaps: np.ndarray) -> list[dict]:
    return mask_util.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0).astype(np.uint8)))


@given(
    st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99)
)
def test_codes_are_those_of_pycocotools(
    count: int, height: int, length: int, share: float, seed: int
) -> None:
    bitmaps = np.random.default_rng(seed).random((count, height, length)) < share
    assert encode(bitmaps) == pycocotools_codes(bitmaps)


def test_long_and_short_runs_of_either_sign_are_written_alike() -> None:
    """Numbers of one to five characters, and differences below zero."""
    bitmaps = np.zeros((6, 1500, 1400), bool)
    bitmaps[1] = True
    bitmaps[2, :, 700:] = True
    bitmaps[3, 3, ::100] = True
    bitmaps[4, 100:900, 3:1390:7] = True
    bitmaps[5, 1490:, 0], bitmaps[5, 0, 1], bitmaps[5, -1, -1] = True, True, True
    assert encode(bitmaps) == pycocotools_codes(bitmaps)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_empty_masks_stand_anywhere(order: list[int]) -> None:
    bitmaps = np.zeros((3, 4, 5), bool)
    bitmaps[0, 1:3, 2:4], bitmaps[1] = True, True
    assert encode(bitmaps[order]) == pycocotools_codes(bitmaps[order])


def test_no_masks_and_no_runs() -> None:
    nothing = np.empty(0, np.int64)
    assert encode_runs(Runs(nothing, nothing, nothing), 0, (4, 5)) == []
    codes = encode_runs(Runs(nothing, nothing, nothing), 2, (4, 5))
    assert codes == pycocotools_codes(np.zeros((2, 4, 5), bool))


def test_runs_that_touch_are_joined_within_a_mask_only() -> None:
    masks = np.array([0, 0, 0, 0, 1, 1, 2])
    starts = np.array([2, 5, 5, 9, 9, 12, 12])
    ends = np.array([5, 5, 7, 12, 12, 12, 13])
    runs = joined(masks, starts, ends)
    assert runs.masks.tolist() == [0, 0, 1, 2]
    assert runs.starts.tolist() == [2, 9, 9, 12]
    assert runs.ends.tolist() == [7, 12, 12, 13]


def test_every_code_has_a_size_of_its_own() -> None:
    first, second = encode(np.ones((2, 3, 4), bool))
    assert first["size"] == [3, 4]
    assert first["size"] is not second["size"]
