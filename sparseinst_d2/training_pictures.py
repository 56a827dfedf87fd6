"""What TensorBoard shows of a SparseInst that is being trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from torch import nn

from instseg_d2.picture_grid import picture_grid
from instseg_d2.visualize import draw_instances

from .activation_maps import draw_activation_maps, instances_with_maps
from .sparseinst import with_bitmasks

#: Of a batch, so many are drawn.
MAX_IMAGES = 2
#: So many instances are drawn with their activation maps, the best, however low their scores.
MAX_INSTANCES = 4


def draw_batch(
    model: nn.Module,
    batch: list[dict[str, Any]],
    input_format: str,
    metadata: Metadata | None,
) -> dict[str, np.ndarray]:
    """Pictures of the first images of a training batch, as they were augmented.

    Args:
        model: a SparseInst in eval mode.
        batch: see :meth:`.sparseinst.SparseInst.forward`, with ``instances``.
        input_format: "RGB" or "BGR", the order of the images' channels.
        metadata: gives the class names.

    Returns:
        uint8 RGB: ``ground truth and prediction``, a row for each image; ``activation maps``, those
        of the first image's instances beside their masks.
    """
    rows, maps = [], None
    for inputs in batch[:MAX_IMAGES]:
        image = rgb_picture(inputs["image"], input_format)
        truth = with_bitmasks(inputs["instances"])
        predicted = instances_with_maps(model, {"image": inputs["image"]})
        rows.append(
            [
                image,
                draw_instances(image, _as_prediction(truth), metadata),
                draw_instances(image, predicted, metadata),
            ]
        )
        if maps is None:
            maps = draw_activation_maps(
                image, predicted, metadata, min_score=0.0, max_instances=MAX_INSTANCES
            )
    assert maps is not None, "an empty batch"
    return {"ground truth and prediction": picture_grid(rows), "activation maps": maps}


def rgb_picture(image: torch.Tensor, input_format: str) -> np.ndarray:
    """(3, H, W), 0..255 -> (H, W, 3) uint8 RGB."""
    channels = image.flip(0) if input_format == "BGR" else image
    return np.ascontiguousarray(channels.to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _as_prediction(truth: Instances) -> Instances:
    return Instances(
        truth.image_size, pred_classes=truth.gt_classes, pred_masks=truth.gt_masks.tensor
    )
