"""From a Detectron2 data set dict to SparseInst's input, with the authors' two-branch crop."""

import copy
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.utils.registry import Registry

from instseg_d2.data.image_reading import read_image
from instseg_d2.errors import DataError
from instseg_d2.registry import look_up

from .ground_truth import ground_truth

DATASET_MAPPER_REGISTRY: Registry = Registry("SPARSE_INST_DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Data set mappers, named by ``MODEL.SPARSE_INST.DATASET_MAPPER``.

Called as ``mapper(cfg, is_train)``; maps a data set dict to the input dict of the model.
"""

#: Short sides that an image is resized to before it is cropped (the authors' ``aug`` models).
CROP_SHORT_SIDES = (400, 500, 600)
CROP_PROBABILITY = 0.5


def build_mapper(cfg: CfgNode, is_train: bool) -> "SparseInstDatasetMapper":
    """The mapper that ``MODEL.SPARSE_INST.DATASET_MAPPER`` names."""
    name = cfg.MODEL.SPARSE_INST.DATASET_MAPPER
    key = "MODEL.SPARSE_INST.DATASET_MAPPER"
    return look_up(DATASET_MAPPER_REGISTRY, name, key)(cfg, is_train)


@DATASET_MAPPER_REGISTRY.register()
class SparseInstDatasetMapper:
    """Reads and augments one image, and puts its masks into bitmasks.

    Training draws one of two chains: resize and flip, or (with probability .5 when a crop is
    configured) flip, resize to a random short side, crop, and resize as usual.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        augmentations_with_crop: Sequence[T.Augmentation] | None = None,
        image_format: str = "RGB",
    ) -> None:
        """
        Args:
            is_train: whether ground truth is wanted.
            augmentations: the usual chain.
            augmentations_with_crop: the other chain; None to use the usual one always.
            image_format: "RGB", "BGR" or another that ``detection_utils.read_image`` knows.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.augmentations_with_crop = (
            T.AugmentationList(list(augmentations_with_crop)) if augmentations_with_crop else None
        )
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        with_crop = None
        if is_train and cfg.INPUT.CROP.ENABLED:
            resize, *others = augmentations
            with_crop = [
                *others,
                T.ResizeShortestEdge(CROP_SHORT_SIDES, sample_style="choice"),
                T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE),
                resize,
            ]
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "augmentations_with_crop": with_crop,
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: one image in Detectron2's standard format; it is not changed.

        Returns:
            a copy with ``image``, uint8 (3, H, W), after augmentation; for training ``instances``
            with ``gt_boxes``, ``gt_classes`` and ``gt_masks`` (BitMasks) in place of
            ``annotations``, crowds and instances without a pixel left out.

        Raises:
            DataError: the image cannot be read, is too narrow to be resized, or its size is not
                what the annotation says; an instance has no usable mask.
        """
        annotations = dataset_dict.get("annotations", [])
        # Copying every point of every polygon would take as long as drawing them.
        dataset_dict = copy.deepcopy(
            {key: value for key, value in dataset_dict.items() if key != "annotations"}
        )
        stored = read_image(dataset_dict, self.image_format)
        height, width = stored.shape[:2]
        label = f"image {dataset_dict['file_name']} (image id {dataset_dict.get('image_id')})"
        inputs = T.AugInput(stored)
        try:
            transforms = self._draw_augmentations()(inputs)
        except (AssertionError, ValueError) as error:  # resizing or cropping leaves nothing
            raise DataError(
                f"{label} of {width} x {height} pixels cannot be resized or cropped as INPUT asks: "
                f"{error}"
            ) from error
        image = inputs.image
        dataset_dict["image"] = torch.from_numpy(_planes(image))
        if self.is_train:
            try:
                dataset_dict["instances"] = ground_truth(
                    annotations, transforms, (height, width), image.shape[:2]
                )
            except DataError as error:
                raise DataError(f"{label}: {error}") from error
        return dataset_dict

    def _draw_augmentations(self) -> T.AugmentationList:
        if self.augmentations_with_crop and np.random.uniform() < CROP_PROBABILITY:
            return self.augmentations_with_crop
        return self.augmentations


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (C, H, W); OpenCV takes a fifth of NumPy's time where it can do it."""
    if image.dtype != np.uint8:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    if image.strides[1] < 0:  # a view of the image before it was flipped
        image = cv2.flip(image[:, ::-1], 1)
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes))
    return planes
