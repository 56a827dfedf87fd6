"""Where SparseInst looks: the activation maps of the instances that it finds, and pictures of them.

Shape shorthand: N predictions, of which n are kept; G activation maps each (1 in the base decoder);
(h, w) the size of a map, 1/8 of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.picture_grid import picture_grid
from instseg_d2.visualize import draw_instances

from .decoder import BaseIAMDecoder, InstanceBranch
from .sparseinst import SparseInst

#: How much of a heat map's picture is the map; the rest is the image, in grey.
HEAT_OPACITY = 0.65


@torch.no_grad()
def instances_with_maps(model: nn.Module, inputs: dict[str, Any]) -> Instances:
    """The instances of one image, as the model gives them, with their activation maps.

    Args:
        model: a :class:`SparseInst` in eval mode; it may have been prepared for inference.
        inputs: one preprocessed input, see :meth:`SparseInst.forward`.

    Returns:
        as of :func:`.postprocess.finish`, with a field ``activation_maps`` (n, G, h, w): the
        weights of the pixels, float32 in 0..1, in a frame that covers the image without its
        padding. In the softmax decoder the weights of a map sum to 1 over the padded image.

    Raises:
        ConfigError: the model has no activation maps, or is compiled or recorded.
    """
    if not isinstance(model, SparseInst):
        raise ConfigError(
            f"{type(model).__name__} has no instance activation maps; SparseInst has them"
        )
    images = model.preprocess([inputs])
    with _recorded_logits(model) as recorded:
        outputs = model.network(images.tensor)
    if len(recorded) != 1:
        raise ConfigError(
            "activation maps cannot be read from a network that is compiled or recorded: set "
            "MODEL.INFERENCE.COMPILE and MODEL.INFERENCE.CUDA_GRAPHS to False"
        )
    maps = _maps_of_instances(_instance_branch(model), recorded[0], images)
    results = model.postprocess(outputs, [inputs], images, {"activation_maps": maps})
    return results[0]["instances"]


def _instance_branch(model: SparseInst) -> InstanceBranch:
    branch = getattr(model.decoder, "inst_branch", None)
    if not isinstance(branch, InstanceBranch):
        raise ConfigError(
            f"MODEL.SPARSE_INST.DECODER.NAME is {type(model.decoder).__name__}, which has no "
            "'inst_branch' to read activation maps from"
        )
    return cast(BaseIAMDecoder, model.decoder).inst_branch


@contextmanager
def _recorded_logits(model: SparseInst) -> Iterator[list[Tensor]]:
    """The list to which a run of the network adds its logits (B, G*N, h, w).

    A hook, because the network may be wrapped (half precision), and then has to be run as it is.
    """
    logits: list[Tensor] = []
    hook = _instance_branch(model).register_forward_hook(
        lambda _, inputs, outputs: logits.append(outputs[3])
    )
    try:
        yield logits
    finally:
        hook.remove()


def _maps_of_instances(branch: InstanceBranch, logits: Tensor, images: ImageList) -> Tensor:
    """Logits (1, G*N, h, w) of the padded image -> weights (1, N, G, h', w') of the image."""
    weights = branch.activations(logits.float().flatten(2)).view_as(logits)
    padded, (height, width) = images.tensor.shape[-2:], images.image_sizes[0]
    size = [
        math.ceil(length * cells / whole)
        for length, cells, whole in zip((height, width), logits.shape[-2:], padded, strict=True)
    ]
    part_y, part_x = height / padded[0], width / padded[1]
    # Coordinates run from -1 to 1, edge to edge.
    theta = weights.new_tensor([[[part_x, 0, part_x - 1], [0, part_y, part_y - 1]]])
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    weights = F.grid_sample(weights, grid, padding_mode="border", align_corners=False)
    return weights.unflatten(1, (branch.groups, branch.num_masks)).transpose(1, 2)


# ---------------------------------------------------------------------------------------- pictures


def draw_activation_maps(
    image: np.ndarray,
    instances: Instances,
    metadata: Metadata | None = None,
    *,
    min_score: float = 0.3,
    max_instances: int = 8,
    cell: int = 240,
) -> np.ndarray:
    """A row for each instance: its mask on the image, and beside it its activation maps.

    Args:
        image: uint8 RGB (H, W, 3).
        instances: of :func:`instances_with_maps`, for an output of size (H, W).
        metadata: gives the class names, ``thing_classes``.
        min_score: instances with a lower score (0..1) are left out.
        max_instances: at most so many rows, the best first.
        cell: width and height that each picture is scaled to fit, in pixels.

    Returns:
        uint8 RGB. A map is as bright as its weights are, relative to its greatest. Without any
        instance there is one row, of the image as it is.

    Raises:
        ValueError: the image is of another type or size.
    """
    instances = instances.to("cpu")
    order = instances.scores.argsort(descending=True)
    shown = instances[order[instances.scores[order] >= min_score][:max_instances]]
    groups = shown.activation_maps.shape[1]
    titles = ["instance", *_titles(groups)]
    rows = []
    for index in range(len(shown)):
        maps = shown.activation_maps[index].numpy()
        instance = draw_instances(image, shown[index], metadata, min_score=0.0)
        rows.append([instance, *(heat_map(image, one) for one in maps)])
    if not rows:
        return picture_grid([[draw_instances(image, shown, metadata)]], ["no instance"], cell=cell)
    return picture_grid(rows, titles, cell=cell)


def _titles(groups: int) -> list[str]:
    return ["activation map"] if groups == 1 else [f"map {index + 1}" for index in range(groups)]


def heat_map(image: np.ndarray, weights: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Weights as colours, from dark to bright, over the image in grey.

    Args:
        image: uint8 RGB (H, W, 3).
        weights: float32 (h, w), not negative, over the whole of the image.
        peak: the weight that is brightest, none is above it; None: the greatest of them.

    Returns:
        uint8 RGB (H, W, 3).
    """
    height, width = image.shape[:2]
    scaled = weights / max(float(weights.max()) if peak is None else peak, 1e-12)
    large = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap((255 * large).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    blend: np.ndarray = HEAT_OPACITY * heat[..., ::-1] + (1 - HEAT_OPACITY) * grey
    return blend.round().astype(np.uint8)
