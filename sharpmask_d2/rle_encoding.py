"""COCO's compressed run-length codes of many masks at once, without any bitmap.

A mask is read column after column: pixel (row, column) of an image of height H has the position
``column * H + row``, and a code lists the lengths of runs, the first one of background. The codes
are character for character those of pycocotools.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from instseg_d2.rle_masks import RLE


class Runs(NamedTuple):
    """The runs of foreground of several masks: mask after mask, each by position, with background
    between any two.

    Attributes:
        masks: (m,) int64, which mask a run belongs to.
        starts, ends: (m,) int64, position of its first pixel, and of the first one behind it.
    """

    masks: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def joined(masks: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Runs:
    """Runs in their order, some of which may be empty or touch the next one of their mask."""
    full = starts < ends
    masks, starts, ends = masks[full], starts[full], ends[full]
    apart = (masks[:-1] != masks[1:]) | (ends[:-1] != starts[1:])
    begins, stops = np.ones(len(masks), bool), np.ones(len(masks), bool)
    begins[1:], stops[:-1] = apart, apart
    return Runs(masks[begins], starts[begins], ends[stops])


def encode_runs(runs: Runs, count: int, image_size: tuple[int, int]) -> list[RLE]:
    """The codes of ``count`` masks of an image of this (height, width)."""
    counts, sizes = _counts(runs, count, image_size[0] * image_size[1])
    owners = np.repeat(np.arange(count), sizes)
    places = np.arange(len(counts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    numbers = counts.copy()
    later = np.flatnonzero(places > 2)  # from the fourth on: the difference to the one before last
    numbers[later] -= counts[later - 2]
    text, lengths = _characters(numbers)
    stops = np.cumsum(np.bincount(owners, lengths, count)).astype(np.int64).tolist()
    size = [int(image_size[0]), int(image_size[1])]
    return [
        {"size": size.copy(), "counts": text[start:stop]} for start, stop in pairwise([0, *stops])
    ]


def _counts(runs: Runs, count: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of all runs, of background and foreground in turn, and how many each mask has."""
    per_mask = np.bincount(runs.masks, minlength=count)
    sizes = 2 * per_mask + 1
    last = np.cumsum(sizes) - 1
    ends = np.empty(sizes.sum(), np.int64)  # of runs of either kind
    where = 2 * np.arange(len(runs.masks)) + runs.masks
    ends[where], ends[where + 1], ends[last] = runs.starts, runs.ends, pixels
    counts = np.diff(ends, prepend=0)
    first = last - sizes + 1
    counts[first] = ends[first]
    kept = np.ones(len(counts), bool)
    kept[last] = counts[last] > 0  # a mask may end with foreground
    return counts[kept], sizes - ~kept[last]


def _characters(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Numbers as text, and the characters of each: 5 bits in one, the lowest first; bit 5 says that
    more follow, and the highest of the 5 bits in the last is the sign."""
    magnitudes = np.where(numbers < 0, ~numbers, numbers)
    lengths = np.ones(len(numbers), np.int64)
    longest = 1
    while (more := magnitudes >= 1 << (5 * longest - 1)).any():
        lengths += more
        longest += 1
    place = np.arange(longest)
    digits = (numbers[:, None] >> (5 * place)) & 31
    characters = digits + 48 + 32 * (place < lengths[:, None] - 1)
    return characters[place < lengths[:, None]].astype(np.uint8).tobytes(), lengths
