"""DeepMask's and SharpMask's proposals of a whole image, written out; slow, and an oracle.

Level by level the network answers for every window, the mask included; then the best windows are
chosen. Each of their masks is laid on an empty picture of the level's size, this is resized to the
image, cut at the threshold and encoded whole, one after the other.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from instseg_d2.rle_masks import RLEMasks
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.pyramid import level_sizes, num_windows, pyramid_level

MASKS_AT_A_TIME = 32


@torch.no_grad()
def plain_proposals(
    model: DeepMask, inputs: dict[str, Any], *, everywhere: bool = True
) -> Instances:
    """The proposals of one image, as :meth:`DeepMask.predict_images` has them; without its
    suppression of near duplicates.

    Args:
        model: in eval mode, not prepared for inference.
        inputs: see there.
        everywhere: compute the masks of all windows; else those of the best alone.
    """
    image = inputs["image"].to(model.device).float()
    height, width = image.shape[1:]
    output_size = int(inputs.get("height", height)), int(inputs.get("width", width))
    scales = model.proposals.scales_of(height, width)
    levels = [plain_level(model, image, size) for size in level_sizes((height, width), scales)]
    masks = [level.masks(range(len(level.scores))) if everywhere else None for level in levels]
    best = sorted(
        ((float(score), level, window) for level, each in enumerate(levels)
         for window, score in enumerate(each.scores)),
        key=lambda entry: -entry[0],
    )  # fmt: skip
    least = model.proposals.score_threshold
    codes, boxes, scores = [], [], []
    for score, level, window in best[: model.proposals.num]:
        if 1 / (1 + math.exp(-score)) <= least:
            continue
        found = masks[level]
        mask = levels[level].masks([window])[0] if found is None else found[window]
        bitmap = plain_paste(
            mask.float().cpu().numpy(), levels[level].corner(window), levels[level].size,
            output_size, model.proposals.mask_threshold,
        )  # fmt: skip
        code = mask_util.encode(np.asfortranarray(bitmap))
        if not bitmap.any():
            continue
        x, y, w, h = mask_util.toBbox(code)
        codes.append(code)
        boxes.append([x, y, x + w, y + h])
        scores.append(score)
    result = Instances(output_size)
    result.pred_masks = RLEMasks(codes, output_size)
    result.proposal_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    result.objectness_logits = torch.tensor(scores)
    return result


class PlainLevel:
    """What the network answers for an image at one size.

    Attributes:
        size: (h, w).
        scores: (n,) of all windows, row by row.
    """

    def __init__(self, model: DeepMask, size: tuple[int, int], features: dict[str, Tensor]) -> None:
        self.model, self.size = model, size
        output = model.head(features[model.feature])
        self.rows, self.columns = num_windows(size, model.stride)
        self.scores = output.score_logits[0, 0, : self.rows, : self.columns].float().flatten()
        self.encodings = output.encoding[0]
        self.maps = model.window_maps(features)

    def masks(self, windows: Any) -> Tensor:
        """Logits (n, W, W) of some windows."""
        model = self.model
        parts = []
        for start in range(0, len(windows), MASKS_AT_A_TIME):
            cells = [divmod(w, self.columns) for w in windows[start : start + MASKS_AT_A_TIME]]
            encodings = torch.stack([self.encodings[:, row, column] for row, column in cells])
            cut = []
            for stride, values in self.maps.items():
                step, side = model.stride // stride, model.window_size // stride
                cut.append(
                    torch.cat([
                        values[:, :, row * step : row * step + side,
                               column * step : column * step + side]
                        for row, column in cells
                    ])
                )  # fmt: skip
            parts.append(model.window_masks(encodings, cut))
        return torch.cat(parts)

    def corner(self, window: int) -> tuple[int, int]:
        """y and x of the top left pixel, in the level."""
        row, column = divmod(window, self.columns)
        half = self.model.window_size // 2
        return row * self.model.stride - half, column * self.model.stride - half


def plain_level(model: DeepMask, image: Tensor, size: tuple[int, int]) -> PlainLevel:
    """(3, H, W) at one size."""
    padded = pyramid_level(image, size, model.window_size, model.stride)
    return PlainLevel(model, size, model.backbone(model.normalise(padded)[None]))


def plain_paste(
    logits: np.ndarray,
    corner: tuple[int, int],
    level_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float,
) -> np.ndarray:
    """A mask of (W, W) logits in the image: (H, L) uint8.

    Beyond the window the mask's edge is repeated, so that the resizing has something to see there,
    and what lies there is taken away afterwards.
    """
    window = len(logits)
    rows, columns = (
        np.clip(np.arange(length) - start, 0, window - 1)
        for length, start in zip(level_size, corner, strict=True)
    )
    level = logits[np.ix_(rows, columns)]
    if output_size == level_size:
        resized = level
    elif output_size[0] > level_size[0]:
        resized = cv2.resize(level, output_size[::-1], interpolation=cv2.INTER_LINEAR)
    else:
        canvas = torch.from_numpy(level)[None, None]
        resized = F.interpolate(
            canvas, output_size, mode="bilinear", align_corners=False, antialias=True
        )[0, 0].numpy()
    bitmap = (resized > math.log(threshold / (1 - threshold))).astype(np.uint8)
    for axis in (0, 1):
        centres = (np.arange(output_size[axis]) + 0.5) * level_size[axis] / output_size[axis]
        outside = (centres < corner[axis]) | (centres >= corner[axis] + window)
        if axis == 0:
            bitmap[outside] = 0
        else:
            bitmap[:, outside] = 0
    return bitmap
