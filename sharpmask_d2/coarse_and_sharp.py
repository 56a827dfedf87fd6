"""The coarse and the sharp mask of each proposal of an image, and pictures of both.

One network gives both: the same windows, scores and encodings; only what becomes of an encoding
differs (see :mod:`.full_image`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from instseg_d2.errors import ConfigError
from instseg_d2.picture_grid import picture_grid
from instseg_d2.rle_masks import RLE, RLEMasks
from instseg_d2.visualize import draw_instances

from .full_image import (
    ImageInput,
    find_windows,
    kept_masks,
    logit,
    make_instances,
    masks_of_level,
)
from .pasting import paste
from .pyramid import level_sizes
from .rle_encoding import encode_runs
from .sharpmask import OUTPUTS, SharpMask

#: A proposal is shown with so much around it, as a share of its longer side.
MARGIN = 0.35


@torch.no_grad()
def coarse_and_sharp(model: nn.Module, inputs: dict[str, Any]) -> Instances:
    """The proposals of one image with both masks.

    Args:
        model: a :class:`SharpMask` in eval mode that answers with sharp masks.
        inputs: see :meth:`.full_image.ImageInput.read`.

    Returns:
        as of :meth:`.deepmask.DeepMask.predict_images`, with a field ``coarse_masks``
        (:class:`RLEMasks`), in which a mask may be empty.

    Raises:
        ConfigError: the model has no sharp masks.
        DataError: see :func:`.full_image.propose`.
    """
    if not isinstance(model, SharpMask) or not OUTPUTS[model.output]:
        raise ConfigError(
            f"{type(model).__name__} makes one mask of each window; SharpMask with "
            "MODEL.SHARP_MASK.OUTPUT sharp makes a coarse and a sharp one"
        )
    options = model.proposals
    image = ImageInput.read(inputs, model.device)
    sizes = level_sizes(image.size, options.scales_of(*image.size))
    found = find_windows(model, image, sizes)
    codes: dict[str, list[RLE]] = {"sharp": [], "coarse": []}
    order: list[torch.Tensor] = []
    for level, size in enumerate(sizes):
        for ranks, sharp, corners in masks_of_level(model, image, found, level):
            encodings = found.windows.take(ranks).encodings
            coarse = model.coarse_masks(encodings, model.window_size).float()
            order.append(ranks)
            for name, logits in (("sharp", sharp), ("coarse", coarse)):
                threshold = logit(options.mask_threshold)
                runs = paste(logits, corners, size, image.output_size, threshold)
                codes[name] += encode_runs(runs, len(ranks), image.output_size)
    by_rank = torch.cat(order).argsort() if order else torch.zeros(0, dtype=torch.int64)
    masks = {name: RLEMasks(rles, image.output_size)[by_rank.cpu()] for name, rles in codes.items()}
    result = make_instances(masks["sharp"], found.windows.scores, options)
    result.coarse_masks = masks["coarse"][kept_masks(masks["sharp"], options)]
    return result


def draw_coarse_and_sharp(image: np.ndarray, found: Instances, *, cell: int = 300) -> np.ndarray:
    """A row for each proposal, the part of the image around it: plain, coarse and sharp mask.

    Args:
        image: uint8 RGB (H, W, 3).
        found: on the CPU, of size (H, W), with ``pred_boxes``, ``scores``, ``pred_masks`` and
            ``coarse_masks`` (:class:`RLEMasks`).
        cell: width and height that each picture is scaled to fit, in pixels.

    Returns:
        uint8 RGB. Without any proposal there is one row, of the image as it is.
    """
    titles = ("image", "coarse", "sharp")
    rows = []
    for index in range(len(found)):
        both = [found.pred_masks[index], found.coarse_masks[index]]
        y0, y1, x0, x1 = _surroundings(RLEMasks.cat(both).bounding_boxes(), image.shape[:2])
        part = np.ascontiguousarray(image[y0:y1, x0:x1])
        row = [draw_instances(part, [])]
        for masks in (found.coarse_masks, found.pred_masks):
            one = Instances(part.shape[:2])
            one.pred_masks = masks[index].decode()[:, y0:y1, x0:x1]
            one.scores = found.scores[index : index + 1]
            row.append(draw_instances(part, one, min_score=0.0))
        rows.append(row)
    if not rows:
        return picture_grid([[draw_instances(image, [])]], ["no proposal"], cell=cell)
    return picture_grid(rows, titles, cell=cell)


def _surroundings(boxes: Boxes, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1 of the part of the image to show: all boxes, with a margin."""
    filled = boxes.tensor[boxes.nonempty()]
    x0, y0 = filled[:, :2].min(0).values.tolist()
    x1, y1 = filled[:, 2:].max(0).values.tolist()
    margin = MARGIN * max(x1 - x0, y1 - y0)
    height, width = size
    return (
        max(0, int(y0 - margin)),
        min(height, int(np.ceil(y1 + margin))),
        max(0, int(x0 - margin)),
        min(width, int(np.ceil(x1 + margin))),
    )
