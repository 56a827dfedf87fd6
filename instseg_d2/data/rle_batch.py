"""Checking many compressed run-length codes at once: a thousand take 10 to 30 milliseconds.

pycocotools trusts its input; a damaged code can make it read and write beyond its memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import short_repr
from .image_proposals import RLE

MAX_SIDE = 2**16
"""Of an image, in pixels: so that no image has more than 32 bits can count, as pycocotools does."""

MAX_CHARACTERS = 7
"""Of a number, which then has 35 bits; runs have 32."""


def rles_problem(rles: Sequence[Any], size: Sequence[int] | None = None) -> str | None:
    """What is wrong with the first bad one of the masks of an image, or None.

    Args:
        rles: should be ``{"size": [height, width], "counts": text}``, all of one size.
        size: that size; None: the first mask's.
    """
    for row, rle in enumerate(rles):
        problem = _form_problem(rle, size)
        if problem is not None:
            return f"mask {row}: {problem}"
        size = rle["size"] if size is None else size
    if size is None:
        return None
    covered = covered_pixels([rle["counts"].encode("utf-8", "surrogatepass") for rle in rles])
    bad = np.flatnonzero(covered != size[0] * size[1])
    if not len(bad):
        return None
    row = int(bad[0])
    if covered[row] < 0:
        return f"mask {row}: the run-length code is damaged"
    return (
        f"mask {row}: the run-length code covers {covered[row]} pixels, the image has "
        f"{size[0] * size[1]}"
    )


def _form_problem(rle: RLE, size: Sequence[int] | None) -> str | None:
    if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
        return "it is no run-length code, {'size': [height, width], 'counts': text}"
    if not isinstance(rle["counts"], str):
        return f"'counts' is a {type(rle['counts']).__name__}, expected text (a compressed code)"
    own = rle["size"]
    problem = size_problem(own)
    if problem is not None:
        return problem
    if size is not None and list(own) != list(size):
        return f"it is for an image of (height, width) = {tuple(own)}, expected {tuple(size)}"
    return None


def size_problem(size: Any) -> str | None:
    """What is wrong with the ``size`` of a run-length code, or None."""
    if (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(type(side) is int and 0 < side < MAX_SIDE for side in size)
    ):
        return None
    return f"'size' is {short_repr(size)}, expected [height, width], whole numbers below {MAX_SIDE}"


def covered_pixels(codes: Sequence[bytes]) -> np.ndarray:
    """Pixels that each code covers, foreground and background; -1 for a damaged code.

    A number is written as characters of 5 bits, the lowest first; bit 5 says that more follow, bit
    4 of the last one is the sign. From the fourth number on, it is the difference to the run before
    the last. (Source: ``rleFrString`` in pycocotools.)
    """
    readable = _readable(codes)
    if not readable.all():
        covered = np.full(len(codes), -1)
        covered[readable] = covered_pixels(
            [code for code, good in zip(codes, readable, strict=True) if good]
        )
        return covered
    if not len(codes):
        return np.zeros(0, np.int64)

    digits = np.frombuffer(b"".join(codes), np.uint8) - np.uint8(48)
    goes_on = (digits & 0x20) != 0
    numbers, is_too_long = _numbers(digits, goes_on)
    lengths = np.array([len(code) for code in codes])
    bounds = np.cumsum(lengths) - lengths
    counts = lengths - np.add.reduceat(goes_on, bounds, dtype=np.int64)
    runs = _undo_differences(numbers, counts)
    firsts = np.cumsum(counts) - counts
    covered = np.add.reduceat(runs, firsts)
    covered[np.logical_or.reduceat(is_too_long | (runs < 0), firsts)] = -1
    return covered


def _numbers(digits: np.ndarray, goes_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers, int64, and whether each has too many characters to be one.

    Nearly all have one character; the others are put right after.

    Args:
        digits: uint8, one for each character.
        goes_on: whether the next belongs to the same number.
    """
    last = digits[~goes_on] & 0x1F
    numbers = (last ^ 0x10).astype(np.int64) - 0x10  # bit 4 is the sign
    lower = np.flatnonzero(goes_on)
    owners = lower - np.arange(len(lower))  # of the characters before, the others end a number
    first, length = np.unique(owners, return_index=True, return_counts=True)[1:]
    place = np.arange(len(lower)) - np.repeat(first, length)
    is_too_long = np.zeros(len(numbers), bool)
    is_too_long[owners[place >= MAX_CHARACTERS - 1]] = True
    shift = np.minimum(length, MAX_CHARACTERS)
    numbers[owners[first]] <<= 5 * shift
    parts = (digits[lower] & 0x1F).astype(np.int64) << (5 * np.minimum(place, MAX_CHARACTERS))
    np.add.at(numbers, owners, parts)
    return numbers, is_too_long


def _readable(codes: Sequence[bytes]) -> np.ndarray:
    """Whether each code is text of characters that can occur and does not end within a number."""
    allowed = bytes(range(48, 112))
    return np.array(
        [
            len(code) > 0 and not code.translate(None, allowed) and not (code[-1] - 48) & 0x20
            for code in codes
        ],
        bool,
    )


def _undo_differences(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The runs: sums over every other number of the same code. The first run is on its own.

    Args:
        numbers: of all codes, one after the other.
        counts: of numbers of each code; none is 0.
    """
    # In two columns, with one number more where a code has an odd count of them, each column is a
    # sum down to the row.
    rows = (counts + 1) // 2
    first_rows = np.cumsum(rows) - rows
    firsts = np.cumsum(counts) - counts
    places = np.arange(len(numbers)) + np.repeat(2 * first_rows - firsts, counts)
    table = np.zeros(2 * int(rows.sum()), np.int64)
    table[places] = numbers
    table[2 * first_rows] = 0
    columns = table.reshape(-1, 2)
    sums = np.cumsum(columns, axis=0)
    before = sums[first_rows] - columns[first_rows]
    sums -= np.repeat(before, rows, axis=0)
    runs = sums.reshape(-1)[places]
    runs[firsts] = numbers[firsts]
    return runs
