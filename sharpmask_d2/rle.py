"""Parts of COCO run-length codes, without decoding the whole mask.

A mask is written column after column as lengths of runs, the first one of background.
"""

from typing import Any

import numpy as np

from instseg_d2.data.run_lengths import run_lengths
from instseg_d2.errors import DataError


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
