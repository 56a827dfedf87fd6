"""From an image as it was read to what a model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from .errors import ConfigError, DataError

CHANNEL_ORDERS = ("RGB", "BGR")


def check_channel_order(order: str) -> None:
    """Raise ``ConfigError`` if ``INPUT.FORMAT`` is no order of channels that images can have."""
    if order not in CHANNEL_ORDERS:
        raise ConfigError(f"INPUT.FORMAT is {order!r}; images are {' or '.join(CHANNEL_ORDERS)}")


class ImagePreprocessor:
    """Resizes an image, and puts its channels into the order of the model."""

    def __init__(self, channel_order: str, min_size: int, max_size: int) -> None:
        """
        Args:
            channel_order: "RGB" or "BGR", what the model wants.
            min_size: length of the shorter side; 0 to leave images at their own size.
            max_size: the longer side is at most this long.

        Raises:
            ConfigError: another order of channels.
        """
        check_channel_order(channel_order)
        self._is_rgb = channel_order == "RGB"
        self._min_size, self._max_size = min_size, max_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImagePreprocessor:
        return cls(cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, image: np.ndarray, name: str = "an image") -> dict[str, Any]:
        """
        Args:
            image: (H, W, 3) uint8 BGR, as OpenCV reads it; it is not changed.
            name: of the image, for messages.

        Returns:
            dict:
                * ``image``: (3, h, w) of the same type, resized, in the model's order of channels;
                * ``height``, ``width``: H and W.

        Raises:
            DataError: the array has another shape, is empty or far too narrow.
        """
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f"{name}: shape (H, W, 3), BGR, is wanted; got {image.shape}")
        height, width = image.shape[:2]
        resized = self._resized(image[:, :, ::-1] if self._is_rgb else image, name)
        # PyTorch warns of arrays that cannot be written, as those of files may be.
        pixels = np.require(resized.transpose(2, 0, 1), requirements=("C", "W"))
        return {"image": torch.from_numpy(pixels), "height": height, "width": width}

    def _resized(self, image: np.ndarray, name: str) -> np.ndarray:
        if self._min_size == 0:
            return image
        height, width = image.shape[:2]
        size = T.ResizeShortestEdge.get_output_shape(height, width, self._min_size, self._max_size)
        if 0 in size:
            raise DataError(
                f"{name}: {width} x {height} pixels are too narrow: resized by "
                "INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST nothing is left"
            )
        resized: np.ndarray = T.ResizeTransform(height, width, *size).apply_image(image)
        return resized
