"""Training steps: forward, losses and backward, on random images; the optimiser is left out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from .models import autocast, build, random_picture, unchanged_layout
from .plain import plain_module
from .settings import PLAIN, Settings, dtype_of, require_architecture
from .stages import PRODUCT
from .timing import Comparison, Side

Step = Callable[[], dict[str, Tensor]]


def training_step(settings: Settings) -> Iterator[Comparison]:
    """One comparison; half precision is autocast's, over float32 weights.

    Raises:
        ConfigError: another model than SparseInst.
    """
    cfg, other = settings.cfg(), settings.other_cfg()
    sides = {PRODUCT: _side(settings, cfg, _product_losses)}
    if other is not None:
        losses = _plain_losses if settings.against == PLAIN else _product_losses
        sides[settings.against] = _side(settings, other, losses)
    compare = _relative if settings.against == PLAIN else None
    yield Comparison("training step", sides, settings.batch, difference=compare)


def training_batch(settings: Settings, num_classes: int) -> list[dict[str, Any]]:
    """Images with ``objects`` ellipses each, always the same."""
    height, width = settings.image_size
    rng = np.random.default_rng(0)
    batch = []
    for number in range(settings.batch):
        masks = np.zeros((settings.objects, height, width), np.uint8)
        for mask in masks:
            centre = int(rng.integers(width)), int(rng.integers(height))
            axes = tuple(int(rng.integers(2, 2 + side // 5)) for side in (width, height))
            cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
        instances = Instances((height, width))
        instances.gt_classes = torch.from_numpy(rng.integers(0, num_classes, settings.objects))
        instances.gt_masks = BitMasks(torch.from_numpy(masks).bool())
        picture = random_picture(height, width, seed=number).transpose(2, 0, 1)
        image = torch.from_numpy(np.ascontiguousarray(picture))
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def _side(settings: Settings, cfg: CfgNode, losses: Callable[..., dict[str, Tensor]]) -> Side:
    require_architecture(cfg, ["SparseInst"], "the benchmark of training")
    model = build(cfg, settings)
    is_plain = losses is _plain_losses
    model = (unchanged_layout(model) if is_plain else copy.deepcopy(model)).train()
    batch = training_batch(settings, cfg.MODEL.SPARSE_INST.DECODER.NUM_CLASSES)
    dtype = dtype_of(cfg)

    def step(_: Any) -> float:
        total = torch.stack(list(losses(model, batch, dtype).values())).sum()
        total.backward()
        return float(total.detach())

    return Side(step, lambda: model.zero_grad(set_to_none=True))


def _product_losses(
    model: Any, batch: list[dict[str, Any]], dtype: torch.dtype
) -> dict[str, Tensor]:
    with autocast(model.device.type, dtype):
        losses: dict[str, Tensor] = model(batch)
    return losses


def _plain_losses(model: Any, batch: list[dict[str, Any]], dtype: torch.dtype) -> dict[str, Tensor]:
    images = model.preprocess(batch).tensor
    with autocast(model.device.type, dtype):
        outputs = plain_module("plain_network").plain_outputs(model, images)
    truth = [sample["instances"].to(model.device) for sample in batch]
    losses: dict[str, Tensor] = plain_module("plain_losses").plain_losses(
        model.criterion,
        {name: value.float() for name, value in outputs.items()},
        truth,
        tuple(images.shape[-2:]),
    )
    return losses


def _relative(first: float, second: float) -> float:
    return abs(first - second) / abs(second)
