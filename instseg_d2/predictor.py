"""Instances of one image, as Detectron2's ``DefaultPredictor`` gives them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from .data.config_datasets import drawing_metadata, register_config_datasets
from .image_sources import named_images
from .modeling import build_inference_model
from .preprocessing import ImagePreprocessor


class Predictor:
    """Reads, resizes and predicts one image at a time on ``MODEL.DEVICE``.

    Attributes:
        model: in eval mode, with ``MODEL.WEIGHTS``, made faster as ``MODEL.INFERENCE`` says.
        metadata: of the first of ``DATASETS.TEST``, else of ``DATASETS.TRAIN`` (class names for
            drawing), or None.
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
        register_config_datasets(cfg)
        self.model = build_inference_model(cfg)
        self.metadata = drawing_metadata(cfg)
        self._preprocess = ImagePreprocessor.from_config(cfg)

    @torch.no_grad()
    def __call__(self, image: np.ndarray | str | Path) -> dict[str, Any]:
        """
        Args:
            image: (H, W, 3) uint8 BGR (as OpenCV reads it), or the path of an image file.

        Returns:
            what the model gives for it, of size (H, W): ``{"instances": Instances}``, see
            :func:`sparseinst_d2.postprocess.finish`, or ``{"proposals": Instances}``.

        Raises:
            DataError: the file cannot be read, or the array has another shape, is empty or far too
                narrow.
        """
        (named,) = named_images([image])
        return self.model([self._preprocess(named.read(), named.name)])[0]
