"""Parts of COCO run-length codes, without decoding the whole mask.

A mask is written column after column as lengths of runs, the first one of background.
"""

from typing import Any

import numpy as np

from instseg_d2.errors import DataError


def run_lengths(counts: str | bytes | list[int] | np.ndarray) -> np.ndarray:
    """The runs of a code, int64: background, foreground, background, ...

    Args:
        counts: of COCO's format, compressed (text) or not. In the compressed form a number is
            written as characters of 5 bits, the lowest first; bit 5 says that more follow, bit 4 of
            the last one is the sign. From the fourth on a number is the difference to the run
            before the last. (Source: ``rleFrString`` in pycocotools.)

    Raises:
        DataError: the code is damaged.
    """
    if not isinstance(counts, (str, bytes)):
        try:
            return np.asarray(counts, np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the run-length code of the mask is damaged: {error}") from error
    raw = counts.encode("utf-8") if isinstance(counts, str) else counts
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 0x20:
        raise DataError("the run-length code of the mask is damaged")
    ends = np.flatnonzero((digits & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 0x1F) << (5 * places), starts)
    runs -= ((digits[ends] & 0x10) >> 4) << (5 * lengths)
    runs[1::2] = np.cumsum(runs[1::2])  # undoes the differences; the first run is on its own
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode_part(
    rle: dict[str, Any], image_size: tuple[int, int], box: tuple[int, int, int, int]
) -> np.ndarray:
    """A rectangle of a mask.

    Args:
        rle: ``size`` (height, width) and ``counts``, compressed or not.
        image_size: (height, width) that the code must be for.
        box: left, top, right, bottom in pixels, inside the image; not empty.

    Returns:
        uint8 (bottom - top, right - left), 0 or 1.

    Raises:
        DataError: the code is damaged or for an image of another size.
    """
    height, width = image_size
    size = tuple(rle.get("size", ()))
    if size != (height, width):
        raise DataError(
            f"the run-length code of the mask is for an image of (height, width) = {size}, but the "
            f"image is {(height, width)}"
        )
    runs = run_lengths(rle["counts"])
    bounds = np.cumsum(runs)
    if not len(runs) or runs.min() < 0 or bounds[-1] != height * width:
        raise DataError(
            f"the run-length code of the mask does not cover the {height * width} pixels of the "
            "image: it is damaged"
        )
    left, top, right, bottom = box
    first, last = left * height, right * height
    bounds = np.clip(bounds, first, last)
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    columns = np.repeat(values, np.diff(bounds, prepend=first)).reshape(right - left, height)
    part: np.ndarray = columns[:, top:bottom].T
    return part
