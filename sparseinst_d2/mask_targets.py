"""Ground-truth masks at the size of the predictions, from no more pixels than that takes.

Placed on a zero canvas of the padded input's size and resized bilinearly, a mask (n, H, W) becomes
a target (n, h, w). Resizing without antialiasing reads two rows and two columns of the canvas for
each pixel of the target, so the canvas itself is never made.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks
from torch import Tensor

from .bands import bilinear


def batch_targets(
    gt_masks: Sequence[BitMasks], padded_size: Sequence[int], output_size: Sequence[int]
) -> Tensor:
    """The targets of several images, one after the other; see :func:`mask_targets`."""
    counts = [len(masks) for masks in gt_masks]
    targets = torch.empty(sum(counts), *output_size, device=gt_masks[0].device)
    for masks, out in zip(gt_masks, targets.split(counts), strict=True):
        mask_targets(masks, padded_size, output_size, out=out)
    return targets


def mask_targets(
    gt_masks: BitMasks,
    padded_size: Sequence[int],
    output_size: Sequence[int],
    out: Tensor | None = None,
) -> Tensor:
    """Ground-truth masks at the size of the predictions.

    Args:
        gt_masks: n masks of the image's size, H x W.
        padded_size: the input's size after padding, at least H x W.
        output_size: (h, w) of the predictions, which cover the padded input.
        out: where to put the result, if not in a new tensor.

    Returns:
        (n, h, w) float32 in 0..1, resized bilinearly from the zero-padded masks.
    """
    masks = gt_masks.tensor
    if out is None:
        out = torch.empty(len(masks), *output_size, device=masks.device)
    ratios = [padded / output for padded, output in zip(padded_size, output_size, strict=True)]
    if all(ratio.is_integer() for ratio in ratios):
        return _means(masks, [int(ratio) for ratio in ratios], out)
    return _mixtures(masks, padded_size, out)


def _means(masks: Tensor, ratios: Sequence[int], out: Tensor) -> Tensor:
    """Where a target pixel covers r x r mask pixels: the mean of the middle ones, 1, 2 or 4."""
    sums, num_pixels = masks.view(torch.uint8), 1
    for dim, ratio in enumerate(ratios, start=1):
        middle = {(ratio - 1) // 2, ratio // 2}
        num_pixels *= len(middle)
        total = sums.new_zeros(*sums.shape[:dim], out.shape[dim], *sums.shape[dim + 1 :])
        for offset in middle:
            # The last target pixels may lie in the padding.
            part = sums.movedim(dim, 0)[offset::ratio]
            total.movedim(dim, 0)[: len(part)] += part
        sums = total
    return torch.div(sums, num_pixels, out=out)


def _mixtures(masks: Tensor, padded_size: Sequence[int], out: Tensor) -> Tensor:
    """At any ratio: mixtures of two rows and two columns."""
    (rows, row_weights), (columns, column_weights) = (
        _taps(*lengths, masks.device)
        for lengths in zip(padded_size, out.shape[1:], masks.shape[1:], strict=True)
    )
    out.zero_()
    for row, row_weight in zip(rows, row_weights, strict=True):
        of_row = masks.index_select(1, row)
        for column, column_weight in zip(columns, column_weights, strict=True):
            out += of_row.index_select(2, column) * (row_weight[:, None] * column_weight)
    return out


def _taps(
    padded: int, output: int, length: int, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """The two positions of every target pixel along an axis and their weights, 0 in the padding."""
    positions, weights = (torch.from_numpy(part.T).to(device) for part in bilinear(padded, output))
    weights = weights.float() * (positions < length)
    return list(positions.clamp(max=length - 1)), list(weights)
