"""What TensorBoard shows of a DeepMask or SharpMask that is being trained."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from detectron2.data.catalog import Metadata
from torch import nn
from torch.nn import functional as F

from .deepmask import DeepMask
from .patch_pictures import draw_patches

#: Of the patches with a mask in a batch, so many are drawn.
MAX_PATCHES = 4


def draw_batch(
    model: nn.Module,
    batch: list[dict[str, Any]],
    input_format: str,
    metadata: Metadata | None,
) -> dict[str, np.ndarray]:
    """A picture of the first patches of a training batch that have a mask.

    Args:
        model: a DeepMask or SharpMask in eval mode.
        batch: see :meth:`.deepmask.DeepMask.forward`.
        input_format: "RGB" or "BGR", the order of the patches' channels.
        metadata: not needed.

    Returns:
        uint8 RGB: ``patches``, a row for each, with its true and predicted masks; nothing if no
        patch has a mask.
    """
    side = cast(DeepMask, model).window_size
    samples = [sample for sample in batch if sample["kind"] == "mask"][:MAX_PATCHES]
    if not samples:
        return {}
    shown = [_in_window(sample, side) for sample in samples]
    return {"patches": draw_patches(shown, model(samples), input_format)}


def _in_window(sample: dict[str, Any], side: int) -> dict[str, Any]:
    """With ``gt_mask`` at the window's size: for DeepMask's training it has another."""
    mask = F.interpolate(sample["gt_mask"][None, None].float(), (side, side))[0, 0] > 0.5
    return {**sample, "gt_mask": mask}
