"""Stretching, cutting and stretching again along one axis, as one matrix with a narrow band.

Positions of what is stretched are *sources*, those of the result are *targets*. A target is the
mean of at most four sources, which lie together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BLOCK = 24
"""Targets of a block: few, so that little but the band is multiplied and a block's results stay in
the cache; many enough to be worth a call."""


@dataclass(frozen=True)
class Block:
    """Targets from ``start`` on, below ``stop``: ``weights`` times the sources from ``first`` on,
    below ``last``.

    Attributes:
        weights: (stop - start, last - first) float32, each row of sum 1.
    """

    start: int
    stop: int
    first: int
    last: int
    weights: np.ndarray


class Band:
    """The matrix (target length, source length), as blocks of ``BLOCK`` rows.

    Attributes:
        first, last: (target length,) int, both rising: target t depends on the sources from
            ``first[t]`` on, below ``last[t]``.
    """

    def __init__(self, sources: np.ndarray, weights: np.ndarray) -> None:
        """
        Args:
            sources: (target length, k) int, which sources a target is made of.
            weights: (target length, k), how much of each; a source may occur several times.
        """
        self.first = sources.min(axis=1)
        self.last = sources.max(axis=1) + 1
        self._blocks = []
        for start in range(0, len(sources), BLOCK):
            stop = min(start + BLOCK, len(sources))
            first, last = int(self.first[start]), int(self.last[stop - 1])
            matrix = np.zeros((stop - start, last - first))
            targets = np.arange(stop - start)[:, None]
            np.add.at(matrix, (targets, sources[start:stop] - first), weights[start:stop])
            self._blocks.append(Block(start, stop, first, last, matrix.astype(np.float32)))

    def targets_of(self, source_start: int, source_stop: int) -> tuple[int, int]:
        """The targets, start and stop, that depend on any source of this range."""
        start = np.searchsorted(self.last, source_start, side="right")
        stop = np.searchsorted(self.first, source_stop, side="left")
        return int(start), int(stop)

    def sources_of(self, start: int, stop: int) -> tuple[int, int]:
        """The sources, start and stop, that the targets of this range (not empty) depend on."""
        return int(self.first[start]), int(self.last[stop - 1])

    def blocks(self, start: int, stop: int) -> Iterator[Block]:
        """The blocks of the targets from ``start`` on, below ``stop``."""
        for block in self._blocks[start // BLOCK : -(-stop // BLOCK)]:
            part = slice(max(block.start, start), min(block.stop, stop))
            first, last = self.sources_of(part.start, part.stop)
            weights = block.weights[part.start - block.start : part.stop - block.start]
            weights = weights[:, first - block.first : last - block.first]
            yield Block(part.start, part.stop, first, last, weights)


@lru_cache(maxsize=64)
def stretch_cut_stretch(source: int, padded: int, image: int, output: int) -> Band:
    """``source`` positions stretched bilinearly to ``padded``, of which the first ``image`` are
    stretched to ``output``: both as ``F.interpolate(align_corners=False)`` does.
    """
    near, near_weights = bilinear(source, padded)
    far, far_weights = bilinear(image, output)
    sources = near[far].reshape(output, 4)
    weights = (far_weights[:, :, None] * near_weights[far]).reshape(output, 4)
    return Band(sources, weights)


def bilinear(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The two sources (target, 2) of every target, and their weights (target, 2).

    Positions are float32, like those of ``F.interpolate``, so that both round alike.
    """
    scale = np.float32(source) / np.float32(target)
    position = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    position = position.clip(min=0)
    lower = position.astype(np.int64).clip(max=source - 1)
    upper = (lower + 1).clip(max=source - 1)
    fraction = (position - lower).clip(max=1).astype(np.float64)
    return np.stack([lower, upper], axis=1), np.stack([1 - fraction, fraction], axis=1)
