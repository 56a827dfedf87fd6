from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from instseg_d2.data.run_lengths import run_lengths
from instseg_d2.errors import DataError
from sharpmask_d2.rle import decode_part


def compressed(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def counts_of(mask: np.ndarray) -> list[int]:
    flat = mask.astype(int).ravel(order="F").tolist()
    counts = [len(list(group)) for _, group in groupby(flat)]
    return [0, *counts] if flat[0] else counts


MASKS = st.tuples(
    st.integers(1, 70), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**31)
).map(lambda m: np.random.default_rng(m[3]).random((m[0], m[1])) < m[2])


@given(MASKS, st.booleans())
def test_compressed_code_gives_the_runs(mask: np.ndarray, as_text: bool) -> None:
    counts = compressed(mask)["counts"]
    assert run_lengths(counts.decode() if as_text else counts).tolist() == counts_of(mask)


def test_long_runs_of_both_signs() -> None:
    """Runs of several characters, and differences below zero."""
    mask = np.zeros((2000, 1000), bool)
    mask[100:1900, 3:900] = True
    mask[7:9, 950] = True
    assert run_lengths(compressed(mask)["counts"]).tolist() == counts_of(mask)


@given(MASKS, st.data(), st.booleans())
def test_part_is_that_of_the_whole(mask: np.ndarray, data: st.DataObject, compress: bool) -> None:
    height, width = mask.shape
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    rle = compressed(mask) if compress else {"size": list(mask.shape), "counts": counts_of(mask)}
    part = decode_part(rle, mask.shape, (left, top, right, bottom))
    np.testing.assert_array_equal(part, mask[top:bottom, left:right])


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 6], "counts": [10, 4, 10]}, "image of .* = .4, 6., but the image is .6, 4."),
        ({"counts": [10, 4, 10]}, "but the image is"),
        ({"size": [6, 4], "counts": [10, 4, 9]}, "does not cover the 24 pixels"),
        ({"size": [6, 4], "counts": [10, -4, 18]}, "does not cover"),
        ({"size": [6, 4], "counts": []}, "does not cover"),
        ({"size": [6, 4], "counts": ""}, "does not cover"),
        ({"size": [6, 4], "counts": [10, "x", 10]}, "damaged"),
        ({"size": [6, 4], "counts": [10, None, 10]}, "damaged"),
        ({"size": [6, 4], "counts": "\x01\x02"}, "damaged"),
        ({"size": [6, 4], "counts": "äö"}, "damaged"),
        ({"size": [6, 4], "counts": "PPPPPPPPPPPPPPPPPPPPPPPP"}, "damaged"),
    ],
)
def test_damaged_codes(rle: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_part(rle, (6, 4), (0, 0, 4, 6))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_mask_or_a_clear_error(counts: bytes) -> None:
    try:
        part = decode_part({"size": [6, 4], "counts": counts}, (6, 4), (1, 0, 3, 6))
    except DataError:
        return
    assert part.shape == (6, 2)
    assert set(np.unique(part)) <= {0, 1}
