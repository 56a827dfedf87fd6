"""The runs of COCO's run-length codes.

A mask is written column after column as lengths of runs, the first one of background.
"""

import numpy as np

from ..errors import DataError
from .rle_batch import MAX_CHARACTERS


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
    if lengths.max() > MAX_CHARACTERS:
        raise DataError("the run-length code of the mask is damaged: a number is too long")
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 0x1F) << (5 * places), starts)
    runs -= ((digits[ends] & 0x10) >> 4) << (5 * lengths)
    runs[1::2] = np.cumsum(runs[1::2])  # undoes the differences; the first run is on its own
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
