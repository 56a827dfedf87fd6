"""Masks as run-length codes. They are never decoded into pixels, whatever size they claim."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.rle_batch import MAX_CHARACTERS
from ..data.run_lengths import run_lengths
from ..errors import DataError
from .entries import MAX_SIDE
from .masks import Box, MaskFacts, Size
from .problems import Place, Problems, shown


def check_rle(
    rle: dict[str, Any], size: Size | None, place: Place, problems: Problems
) -> MaskFacts | None:
    """Report what is wrong with a run-length code.

    Args:
        rle: of a JSON: ``size`` and ``counts``, compressed (text) or not.
        size: the image's; None if unknown.

    Returns:
        What the mask is like; None if the code cannot be used.
    """
    own = rle.get("size")
    if not isinstance(own, list) or len(own) != 2 or not all(map(_is_side, own)):
        problems.add("rle-invalid", f"its 'size' is {shown(own)}, expected [height, width]", place)
        return None
    if size is not None and tuple(own) != size:
        swapped = " (the sides are swapped)" if tuple(own[::-1]) == size else ""
        problems.add(
            "rle-wrong-size",
            f"the code is for (height, width) = {shown(tuple(own))}, the image has {size}{swapped}",
            place,
        )
        return None
    reason = _counts_problem(rle.get("counts"), own[0] * own[1])
    if reason is None:
        try:
            runs = run_lengths(rle["counts"])
        except DataError as error:
            reason = str(error)
        else:
            reason = _runs_problem(runs, own[0] * own[1])
    if reason is not None:
        problems.add("rle-invalid", reason, place)
        return None
    return _facts(runs, own[0])


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def _counts_problem(counts: Any, pixels: int) -> str | None:
    """What can be said before the code is read. A code has at most a run for each pixel, and one
    of background before; longer ones are not read."""
    if isinstance(counts, str):
        is_short = len(counts) <= MAX_CHARACTERS * (pixels + 1)
    elif isinstance(counts, list):
        is_short = len(counts) <= pixels + 2
        if not all(type(run) is int for run in counts):
            return "its 'counts' are not all whole numbers"
    else:
        return f"its 'counts' are {shown(counts)}, expected text or a list of numbers"
    return None if is_short else f"its 'counts' are too long for {pixels} pixels"


def _runs_problem(runs: np.ndarray, pixels: int) -> str | None:
    if len(runs) and runs.min() < 0:
        return "it has runs below 0"
    # In floats: sums of damaged runs may not fit into 64 bits.
    covered = float(runs.sum(dtype=np.float64))
    if covered != pixels:
        return f"it covers {covered:.0f} pixels, the image has {pixels}"
    return None


def _facts(runs: np.ndarray, height: int) -> MaskFacts:
    ends = np.cumsum(runs)
    lengths, ends = runs[1::2], ends[1::2]
    ends = ends[lengths > 0]
    lengths = lengths[lengths > 0]
    area = int(lengths.sum())
    if not area:
        return MaskFacts(None, 0.0, 0.0, True)
    starts, lasts = ends - lengths, ends - 1
    box: Box = (float(starts[0] // height), 0.0, float(lasts[-1] // height + 1), float(height))
    if not (starts // height != lasts // height).any():  # else a run goes on in the next column
        box = (box[0], float((starts % height).min()), box[2], float((lasts % height).max() + 1))
    return MaskFacts(box, float(area), float(area), True)
