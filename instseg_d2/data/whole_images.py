"""Images as they are, for models that resize for themselves."""

from typing import Any

import numpy as np
import torch

from ..preprocessing import check_channel_order
from .image_reading import read_image


class WholeImageMapper:
    """Reads the image of a data set dict, whole and at its own size."""

    def __init__(self, image_format: str = "RGB") -> None:
        """
        Args:
            image_format: "RGB" or "BGR", the order of the channels (``INPUT.FORMAT``).

        Raises:
            ConfigError: another image format.
        """
        check_channel_order(image_format)
        self.image_format = image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            record: a dict in Detectron2's data set format; it is not changed, nor are its
                annotations read.

        Returns:
            dict:
                * ``image``: uint8 (3, H, W);
                * ``height``, ``width``: H and W;
                * ``image_id`` (None if unknown), ``file_name``.

        Raises:
            DataError: see :func:`instseg_d2.data.image_reading.read_image`.
        """
        pixels = read_image(dict(record), self.image_format)
        height, width = pixels.shape[:2]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "height": height,
            "width": width,
            "image_id": record.get("image_id"),
            "file_name": record["file_name"],
        }
