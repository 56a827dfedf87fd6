"""Instances of one image, as Detectron2's ``DefaultPredictor`` gives them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T

from .data.checks import read_image
from .data.embedded import register_embedded_data
from .errors import DataError
from .modeling import build_trained_model


class Predictor:
    """Reads, resizes and predicts one image at a time on ``MODEL.DEVICE``.

    Attributes:
        model: in eval mode, with ``MODEL.WEIGHTS``.
        metadata: of the first of ``DATASETS.TEST`` (class names for drawing), or None.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: see :func:`instseg_d2.model_zoo.get_config`; ``MODEL.WEIGHTS`` names the
                checkpoint.

        Raises:
            WeightsError: the weights cannot be loaded or belong to another config.
            DeviceError: ``MODEL.DEVICE`` is not there.
        """
        register_embedded_data(cfg)
        self.model = build_trained_model(cfg)
        self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
        self._input_format = cfg.INPUT.FORMAT
        self._resize = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )

    @torch.no_grad()
    def __call__(self, image: np.ndarray | str | Path) -> dict[str, Any]:
        """
        Args:
            image: (H, W, 3) uint8 BGR (as OpenCV reads it), or the path of an image file.

        Returns:
            what the model gives for it: ``{"instances": Instances}`` of size (H, W), see
            :func:`sparseinst_d2.postprocess.postprocess_image`.

        Raises:
            DataError: the file cannot be read, or the array has another shape, is empty or far too
                narrow.
        """
        if isinstance(image, str | Path):
            image = read_image({"file_name": str(image)}, "BGR")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f"an image of shape (H, W, 3), BGR, is wanted; got {image.shape}")
        height, width = image.shape[:2]
        if self._input_format == "RGB":
            image = image[:, :, ::-1]
        transform = self._resize.get_transform(image)
        if 0 in (transform.new_h, transform.new_w):
            raise DataError(
                f"an image of {width} x {height} pixels is too narrow: resized by "
                "INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST nothing is left of it"
            )
        resized = transform.apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), np.float32))
        return self.model([{"image": tensor, "height": height, "width": width}])[0]
