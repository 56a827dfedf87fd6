"""From masks of windows to masks of the image, as runs of pixels: the inverse of cropping.

Shape shorthand: n windows of one level (size of the image), W side of a window in pixels of that
level; (H, L) height and length of a row of the output image. Coordinates are continuous: pixel k
covers k to k + 1, its centre is at k + 0.5. ``factor`` is pixels of the level per output pixel.

The mask at the centre of an output pixel decides. Between the centres of mask pixels it is linear
along x and y; where the image is smaller than the level (factor above 1) the mask is averaged over
what the output pixel covers, as images are when they shrink.

Of a mask that is enlarged only the columns are made, at the mask's own rows. Along a column the
mask is linear from row to row, so where it passes the threshold says at which output pixel a run
starts or ends: the pixels themselves are never computed, which is the faster the more a window is
enlarged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .pyramid import Size
from .rle_encoding import Runs, joined

#: Values of resampled masks at a time. On a CPU they should fit its cache.
VALUES_AT_A_TIME = {"cpu": 2**20}
VALUES_ON_OTHER_DEVICES = 2**26


@dataclass(frozen=True)
class Axis:
    """n windows along one axis of the output image.

    Attributes:
        factor: pixels of the level per output pixel.
        origins: (n,) int64, where the windows begin in the level.
        low, high: (n,) int64: the output pixels whose centres are in the window are low, ...,
            high - 1.
        count: the most of them. So many are computed for every window, from low on.
    """

    factor: float
    origins: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int

    @classmethod
    def make(cls, origins: np.ndarray, window: int, level: int, length: int) -> Axis:
        """
        Args:
            origins: (n,) int64, where the windows begin in the level.
            window, level, length: sides of a window, the level and the output image, in pixels.
        """
        # The first pixel whose centre (pixel + 0.5) * level / length is not before the edge; in
        # whole numbers, since many a centre lies on one.
        low, high = (
            np.clip(-((level - 2 * length * edges) // (2 * level)), 0, length)
            for edges in (origins, origins + window)
        )
        count = int((high - low).max(initial=0))
        return cls(level / length, origins, low, high, count)

    def positions(self, part: slice) -> np.ndarray:
        """Centres of the computed pixels of some windows, in mask pixels: (m, count)."""
        pixels = self.low[part, None] + np.arange(self.count)
        positions: np.ndarray = (pixels + 0.5) * self.factor - self.origins[part, None]
        return positions


def paste(
    logits: Tensor, corners: Tensor, level_size: Size, output_size: Size, threshold: float
) -> Runs:
    """Which pixels of the output image belong to each mask.

    Args:
        logits: (n, W, W) float32.
        corners: (n, 2) int64, y and x of the windows' top left corners in the level.
        level_size, output_size: of the resized image, without its frame, and (H, L).
        threshold: a pixel whose logit is above this belongs to the mask.
    """
    window = logits.shape[-1]
    ys, xs = (
        Axis.make(origins, window, level, length)
        for origins, level, length in zip(
            corners.cpu().numpy().T, level_size, output_size, strict=True
        )
    )
    values = VALUES_AT_A_TIME.get(logits.device.type, VALUES_ON_OTHER_DEVICES)
    step = max(1, values // max(1, xs.count * window))
    parts = [Runs(*(np.empty(0, np.int64) for _ in Runs._fields))]
    if not ys.count or not xs.count:  # no window covers the centre of a pixel
        return parts[0]
    for start in range(0, len(logits), step):
        part = slice(start, min(start + step, len(logits)))
        masks, columns, starts, ends = _runs_in_columns(logits[part], ys, xs, part, threshold)
        masks = masks + start
        x = xs.low[masks] + columns
        inside = x < xs.high[masks]
        masks, x = masks[inside], x[inside] * output_size[0]
        parts.append(joined(masks, x + starts[inside], x + ends[inside]))
    return Runs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _runs_in_columns(
    logits: Tensor, ys: Axis, xs: Axis, part: slice, threshold: float
) -> tuple[np.ndarray, ...]:
    """Runs of some masks, (m, W, W), within each of the computed columns.

    Returns:
        (r,) int64 each: mask, column, first row in the image, and the row behind the last.
    """
    columns = _resample(logits.transpose(1, 2), xs, part)  # from here on x comes before y
    if ys.factor <= 1:
        return _runs_by_crossings(columns, ys, part, threshold)
    pixels = _resample(columns.transpose(1, 2), ys, part).transpose(1, 2)
    return _runs_of_pixels(pixels, ys, part, threshold)


def _resample(values: Tensor, axis: Axis, part: slice) -> Tensor:
    """Masks (m, W, K) at the computed pixels along their first axis: (m, count, K)."""
    masks, window, width = values.shape
    find_sources = _averages if axis.factor > 1 else _neighbours
    sources, weights = find_sources(axis.positions(part), axis.factor, window)
    flat = values.reshape(-1, width)
    rows = torch.from_numpy(sources + window * np.arange(masks)[:, None]).to(flat.device).flatten(1)
    shares = torch.from_numpy(weights).to(flat).flatten(1)[..., None]
    result = flat.index_select(0, rows[0])
    if axis.factor > 1:
        result *= shares[0]
        for row, share in zip(rows[1:], shares[1:], strict=True):
            result += flat.index_select(0, row) * share
    else:  # exact where both are equal
        result.lerp_(flat.index_select(0, rows[1]), shares[1])
    return result.view(masks, axis.count, width)


def _neighbours(positions: np.ndarray, factor: float, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The two mask pixels between whose centres an output pixel's centre lies, as
    :func:`_averages` has them."""
    centres = np.clip(positions - 0.5, 0, window - 1)
    before = centres.astype(np.int64)
    sources = np.stack([before, np.minimum(before + 1, window - 1)])
    return sources, np.abs(np.stack([before + 1, before]) - centres)


def _averages(positions: np.ndarray, factor: float, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Which mask pixels an output pixel is the mean of: those under a triangle twice as wide as
    itself, cut at the window's edges.

    Args:
        positions: (m, count) centres in mask pixels.

    Returns:
        indices and weights, each (taps, m, count).
    """
    first = np.floor(positions - factor + 0.5).astype(np.int64)
    sources = first + np.arange(math.ceil(2 * factor))[:, None, None]
    weights = np.maximum(0, 1 - np.abs(sources + 0.5 - positions) / factor)
    weights[(sources < 0) | (sources >= window)] = 0
    # A computed pixel beyond the window may see nothing of it; it is left out later.
    weights /= np.maximum(weights.sum(0), 1e-12)
    return np.clip(sources, 0, window - 1), weights


def _flips(inside: Tensor) -> tuple[np.ndarray, ...]:
    """Where columns enter and leave a mask.

    Args:
        inside: (m, C, K) bool.

    Returns:
        mask, column and sample, each (2r,) int64: the first sample of each of the r runs, and the
        one behind its last (K at the end of a column), in turn.
    """
    _, columns, samples = inside.shape
    flat = F.pad(inside, (1, 1)).flatten()
    changes = flat[1:] != flat[:-1]
    if changes.device.type == "cpu":  # NumPy's search is twice as fast
        found = np.flatnonzero(changes.numpy())
    else:
        found = changes.nonzero()[:, 0].cpu().numpy()
    lines, sample = np.divmod(found, samples + 2)
    mask, column = np.divmod(lines, columns)
    return mask, column, sample


def _runs_of_pixels(
    pixels: Tensor, ys: Axis, part: slice, threshold: float
) -> tuple[np.ndarray, ...]:
    """As :func:`_runs_in_columns`, of masks given at every computed pixel, (m, C, count)."""
    mask, column, row = _flips(pixels > threshold)
    rows = _in_window(row + ys.low[part][mask], mask, ys, part)
    return mask[::2], column[::2], rows[::2], rows[1::2]


def _runs_by_crossings(
    columns: Tensor, ys: Axis, part: slice, threshold: float
) -> tuple[np.ndarray, ...]:
    """As :func:`_runs_in_columns`, of masks given at their own rows, (m, C, W), and linear in
    between."""
    window = columns.shape[-1]
    mask, column, sample = _flips(columns > threshold)
    # The threshold is passed between the samples before and after.
    before, after = np.maximum(sample - 1, 0), np.minimum(sample, window - 1)
    line = (mask * columns.shape[1] + column) * window
    flat = columns.flatten()
    low, high = (
        flat[torch.from_numpy(line + row).to(flat.device)].cpu().numpy().astype(np.float64)
        for row in (before, after)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (threshold - low) / (high - low)
    rows = (before + 0.5 + share + ys.origins[part][mask]) / ys.factor - 0.5
    # A run starts behind the crossing and ends before it: a pixel right on it is outside.
    rows[::2], rows[1::2] = np.floor(rows[::2]) + 1, np.ceil(rows[1::2])
    rows[sample == 0], rows[sample == window] = -np.inf, np.inf
    rows = _in_window(rows, mask, ys, part).astype(np.int64)
    return mask[::2], column[::2], rows[::2], rows[1::2]


def _in_window(rows: np.ndarray, mask: np.ndarray, ys: Axis, part: slice) -> np.ndarray:
    return np.clip(rows, ys.low[part][mask], ys.high[part][mask])
