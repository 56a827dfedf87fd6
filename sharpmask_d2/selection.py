"""The best windows over all sizes of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .heads import HeadOutput
from .pyramid import Size


@dataclass(frozen=True)
class Windows:
    """n windows of one image, best first.

    Of equal scores the one of the lower level comes first, then the upper, then the left one: the
    first windows are the same ones however many are asked for.

    Attributes:
        scores: (n,) float32 logits.
        levels: (n,) int64, index of the size of the image.
        cells: (n, 2) int64, row and column in the head's answer.
        encodings: (n, D).
    """

    scores: Tensor
    levels: Tensor
    cells: Tensor
    encodings: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Tensor) -> Windows:
        """Those of the given indices (m,), in that order."""
        return Windows(self.scores[rows], self.levels[rows], self.cells[rows], self.encodings[rows])


def best_of_level(
    output: HeadOutput, size: Size, level: int, num: int, least_score: float
) -> Windows:
    """The best windows of one size of an image.

    Args:
        output: of the head, for one image.
        size: rows and columns of windows that count.
        level: index of this size.
        num: the most windows.
        least_score: only those with a score logit above this; -inf: all.
    """
    rows, columns = size
    scores = output.score_logits[0, 0, :rows, :columns].float().flatten()
    order = scores.sort(descending=True, stable=True).indices[:num]
    order = order[scores[order] > least_score]
    cells = torch.stack([order // columns, order % columns], dim=1)
    return Windows(
        scores[order],
        torch.full_like(order, level),
        cells,
        output.encoding[0, :, cells[:, 0], cells[:, 1]].T.contiguous(),
    )


def merge(first: Windows, second: Windows, num: int) -> Windows:
    """The best of both; of equal scores those of the first come first."""
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    both = Windows(*(torch.cat(pair) for pair in pairs))
    return both.take(both.scores.sort(descending=True, stable=True).indices[:num])
