"""Resizing masks: logits to the size they are compared at, probabilities to the original image.

The latter is the last step of SparseInst's inference. A mask is stretched bilinearly over the
padded input, the padding is cut away, and the rest is stretched bilinearly to the output. All three
are linear and act on each axis alone: together they are R @ mask @ C.T with two narrow bands R and
C. On the CPU that product is computed in blocks that stay in the cache, only where a mask can be
above the threshold; a mask never exists in float at full size.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .bands import Band, stretch_cut_stretch

Size = tuple[int, int]
"""Height and width."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom, the last two exclusive."""

TILE = 960
"""Columns computed together: up to that many, one thread multiplies a block. Handing a part of it
to another thread takes longer than the multiplication."""

MAX_PIXELS = 2**24
"""Of masks in float at a time where masks are stretched twice."""


def upsample(mask_logits: Tensor, scale_factor: float) -> Tensor:
    """(n, h', w'), n > 0 -> (n, h, w), bilinearly; the same tensor where the factor is 1."""
    if scale_factor == 1:
        return mask_logits
    # Masks as channels of one image: with one channel each, the backward pass takes twice as long.
    return F.interpolate(
        mask_logits[None], scale_factor=scale_factor, mode="bilinear", align_corners=False
    )[0]


@torch.no_grad()
def masks_and_boxes(
    mask_probs: Tensor, padded_size: Size, image_size: Size, output_size: Size, threshold: float
) -> tuple[Tensor, Tensor]:
    """Stretch masks over the padded input, cut the padding away, stretch to the output, binarise.

    Args:
        mask_probs: (n, h, w) finite probabilities.
        padded_size: size of the padded input, which the masks cover.
        image_size: size of the image in it, before padding.
        output_size: size that masks and boxes are wanted at.
        threshold: a pixel belongs to the mask above this probability.

    Returns:
        masks (n, *output_size) bool and their boxes, see :func:`boxes_from_masks`. Beside these,
        the CPU needs memory for one mask stretched across, not down; another device, for
        ``MAX_PIXELS`` or one mask, whichever is more, in float a few times over.
    """
    if mask_probs.device.type != "cpu":
        stretched = _stretch_twice(mask_probs, padded_size, image_size, output_size, threshold)
        return stretched, boxes_from_masks(stretched)
    # NumPy, because it asks the system for pages of zeros: those that no mask touches stay free.
    masks = np.zeros((len(mask_probs), *output_size), dtype=bool)
    boxes = np.zeros((len(mask_probs), 4), dtype=np.float32)
    rows, columns = (
        stretch_cut_stretch(*lengths)
        for lengths in zip(mask_probs.shape[1:], padded_size, image_size, output_size, strict=True)
    )
    for index, probs in enumerate(mask_probs.detach().float().numpy()):
        boxes[index] = _stretch(probs, masks[index], rows, columns, threshold)
    return torch.from_numpy(masks), torch.from_numpy(boxes)


def boxes_from_masks(masks: Tensor) -> Tensor:
    """Tight boxes (n, 4), XYXY in pixels (right and bottom exclusive), of masks (n, H, W) bool.

    An empty mask has the box (0, 0, 0, 0).
    """
    spans = []
    for axis in (1, 2):  # any() over rows leaves columns, so x comes first
        occupied = masks.any(dim=axis)
        length = occupied.shape[1]
        position = torch.arange(length, device=masks.device)
        first = torch.where(occupied, position, length).amin(dim=1)
        last = torch.where(occupied, position + 1, 0).amax(dim=1)
        spans.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=1).float()


def _stretch_twice(
    mask_probs: Tensor, padded_size: Size, image_size: Size, output_size: Size, threshold: float
) -> Tensor:
    """The masks, by one interpolation after the other."""
    masks = torch.empty((len(mask_probs), *output_size), dtype=torch.bool, device=mask_probs.device)
    height, width = image_size
    largest = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1])
    chunk = max(1, MAX_PIXELS // largest)
    for start in range(0, len(mask_probs), chunk):
        probs = mask_probs[start : start + chunk, None].float()
        padded = F.interpolate(probs, size=padded_size, mode="bilinear", align_corners=False)
        image = padded[..., :height, :width]
        output = F.interpolate(image, size=output_size, mode="bilinear", align_corners=False)
        torch.gt(output[:, 0], threshold, out=masks[start : start + chunk])
    return masks


def _stretch(
    probs: np.ndarray, mask: np.ndarray, rows: Band, columns: Band, threshold: float
) -> Box:
    """Set the pixels of a mask (H, W), so far all False, from its probabilities (h, w).

    A mean of values that are not above the threshold is not above it: only pixels that are made of
    a value above are computed.
    """
    above = probs > threshold
    above_rows, above_columns = (np.flatnonzero(above.any(axis=axis)) for axis in (1, 0))
    if not len(above_rows):
        return 0, 0, 0, 0
    top, bottom = rows.targets_of(above_rows[0], above_rows[-1] + 1)
    left, right = columns.targets_of(above_columns[0], above_columns[-1] + 1)
    if top >= bottom or left >= right:  # in the padding, or between the pixels of a small output
        return 0, 0, 0, 0
    first, last = rows.sources_of(top, bottom)
    wide = np.empty((last - first, right - left), dtype=np.float32)
    for block in columns.blocks(left, right):
        sources = probs[first:last, block.first : block.last]
        np.matmul(sources, block.weights.T, out=wide[:, block.start - left : block.stop - left])
    region = mask[top:bottom, left:right]
    for block in rows.blocks(top, bottom):
        for start in range(0, right - left, TILE):
            tile = slice(start, start + TILE)
            values = block.weights @ wide[block.first - first : block.last - first, tile]
            np.greater(values, threshold, out=region[block.start - top : block.stop - top, tile])
    return _box(region, left, top)


def _box(region: np.ndarray, left: int, top: int) -> Box:
    """The tight box of a mask of which ``region`` is the part from (left, top) on."""
    y, x = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    if not len(y):
        return 0, 0, 0, 0
    return left + int(x[0]), top + int(y[0]), left + int(x[-1]) + 1, top + int(y[-1]) + 1
