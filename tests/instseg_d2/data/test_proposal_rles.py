"""Checking many run-length codes at once agrees with reading each by hand."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instseg_d2.data.rle_batch import rles_problem

SIZE = [7, 9]


def encode(mask):
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def runs_of(counts):
    """The runs as pycocotools decodes them; None for a code that it cannot have written."""
    runs, place = [], 0
    while place < len(counts):
        number = shift = 0
        goes_on = True
        while goes_on:
            if place == len(counts):
                return None
            digit = ord(counts[place]) - 48
            if not 0 <= digit <= 63 or shift == 35:
                return None
            number |= (digit & 0x1F) << shift
            goes_on = bool(digit & 0x20)
            place, shift = place + 1, shift + 5
        if digit & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
    return runs


def is_good(counts):
    runs = runs_of(counts)
    return bool(runs) and min(runs) >= 0 and sum(runs) == SIZE[0] * SIZE[1]


masks = st.lists(st.booleans(), min_size=63, max_size=63).map(
    lambda bits: encode(np.array(bits).reshape(SIZE))["counts"]
)
characters = st.integers(48, 111).map(chr)
noise = st.text(characters | st.sampled_from("!~é"), max_size=12)


@st.composite
def damaged(draw):
    text = draw(masks)
    place = draw(st.integers(0, len(text) - 1))
    return text[:place] + draw(st.sampled_from(["", "0", "n", "o1", "_"])) + text[place + 1 :]


@settings(max_examples=120)
@given(st.lists(masks | noise | damaged(), max_size=8))
def test_any_mixture_of_good_and_bad_codes(codes):
    rles = [{"size": SIZE, "counts": counts} for counts in codes]
    bad = [row for row, counts in enumerate(codes) if not is_good(counts)]
    problem = rles_problem(rles)
    if not bad:
        assert problem is None
    else:
        assert problem.startswith(f"mask {bad[0]}: ")


def test_real_masks_of_large_images_are_good():
    rng = np.random.default_rng(0)
    rles = []
    for _ in range(20):
        mask = np.zeros((480, 640))
        top, left = rng.integers(0, 400), rng.integers(0, 600)
        mask[top : top + rng.integers(1, 400), left : left + rng.integers(1, 400)] = 1
        rles.append(encode(mask))
    rles += [encode(np.zeros((480, 640))), encode(np.ones((480, 640)))]
    assert rles_problem(rles) is None
    assert rles_problem(rles, [480, 640]) is None


@pytest.mark.parametrize(
    ("rle", "said"),
    [
        ([[1, 2, 3, 4, 5, 6]], "no run-length code"),
        ({"size": SIZE}, "no run-length code"),
        ({"size": SIZE, "counts": [63]}, "'counts' is a list"),
        ({"size": [7], "counts": "o1"}, "'size' is"),
        ({"size": [7, -9], "counts": "o1"}, "'size' is"),
        ({"size": [7.0, 9], "counts": "o1"}, "'size' is"),
        ({"size": [9, 7], "counts": "o1"}, r"it is for an image of \(height, width\) = \(9, 7\)"),
        ({"size": SIZE, "counts": "a1"}, "covers 49 pixels, the image has 63"),
        ({"size": SIZE, "counts": "P" * 40 + "0"}, "damaged"),
    ],
)
def test_what_is_wrong_is_said(rle, said):
    good = {"size": SIZE, "counts": "o1"}
    assert rles_problem([good]) is None
    with pytest.raises(AssertionError, match=f"mask 1: .*{said}"):
        raise AssertionError(rles_problem([good, rle]))


def test_no_masks():
    assert rles_problem([]) is None
    assert rles_problem([], SIZE) is None
