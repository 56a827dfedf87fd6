"""From an object of a data set to a patch, and the loaders of patches for training and testing."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm

from instseg_d2.data.image_reading import read_image
from instseg_d2.data.training_loader import TrainingLoader, training_seed
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.preprocessing import check_channel_order

from .patch_crop import crop_image, crop_mask
from .patch_entries import Draw, damaged, testing_entries, training_entries, visible_box
from .patch_sampling import (
    Box,
    SamplingOptions,
    Window,
    mask_window,
    negative_window,
    positive_window,
)
from .reduced_image import read_reduced_image
from .sampler import CategoryBalancedSampler


class PatchMapper:
    """Crops one patch around an object, or for a negative anywhere else in its image.

    What is random comes from the entry's ``seed`` where it has one, else from NumPy's global
    generator, which the training's loader seeds for every patch.
    """

    @configurable
    def __init__(
        self, *, options: SamplingOptions, mask_size: int, image_format: str = "RGB"
    ) -> None:
        """
        Args:
            options: the rules of sampling.
            mask_size: side of ``gt_mask``, which covers the window, in pixels.
            image_format: "RGB" or "BGR", the order of the channels.

        Raises:
            ConfigError: another image format.
        """
        check_channel_order(image_format)
        self.options = options
        self.mask_size = mask_size
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK
        options = SamplingOptions.from_config(cfg)
        coarse = is_train and cfg.MODEL.META_ARCHITECTURE == "DeepMask"
        return {
            "options": options if is_train else options.for_testing(),
            "mask_size": node.LOSS.MASK_SIZE if coarse else node.WINDOW_SIZE,
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            entry: an item of ``PatchEntries`` or ``FixedPatches``; it is not changed.

        Returns:
            dict:
                * ``image``: uint8 (3, P, P), P the window and its context;
                * ``kind``: "mask" or "score", what is to be learned from the patch;
                * ``label``: +1 for an object, -1 for none. An image without room for a negative
                  gives an object instead;
                * ``gt_mask``: bool (mask_size, mask_size), of the window without its context;
                  only where ``kind`` is "mask";
                * ``window``: the :class:`Window` of the patch;
                * ``image_id`` (if known), ``file_name``, ``category_id``: where it comes from.

        Raises:
            DataError: the image or the mask cannot be read.
        """
        seed = entry["seed"] if "seed" in entry else np.random.randint(2**31)
        rng = np.random.default_rng(seed)
        record = dict(entry["record"])
        if "height" not in record or "width" not in record:
            read_image(record, self.image_format)  # sets them
        annotation = record["annotations"][entry["annotation"]]
        draw = entry.get("draw") or self._draw(rng)
        window = self._negative(record, rng) if draw == "negative" else None
        label = 1 if window is None else -1
        if window is None:
            place = mask_window if draw == "mask" else positive_window
            window = place(_object_box(annotation, record), rng, self.options)
        sample = {
            "image": self._crop_image(record, window),
            "kind": "mask" if draw == "mask" else "score",
            "label": label,
            "window": window,
            "file_name": record["file_name"],
            "image_id": record.get("image_id"),
            "category_id": annotation["category_id"],
        }
        if draw == "mask":
            sample["gt_mask"] = self._crop_mask(record, annotation, window)
        return sample

    def _draw(self, rng: np.random.Generator) -> Draw:
        if rng.random() < self.options.mask_share:
            return "mask"
        return "positive" if rng.random() < self.options.positive_share else "negative"

    def _negative(self, record: dict[str, Any], rng: np.random.Generator) -> Window | None:
        boxes = np.array([visible_box(a, record) for a in record["annotations"] if "bbox" in a])
        size = record["height"], record["width"]
        return negative_window(size, boxes, rng, self.options)

    def _crop_image(self, record: dict[str, Any], window: Window) -> torch.Tensor:
        image, reduction = read_reduced_image(record, self.image_format, window.scale)
        window = window.in_crop(0, 0, reduction)
        return torch.from_numpy(crop_image(image, window, self.options.patch_size))

    def _crop_mask(
        self, record: dict[str, Any], annotation: dict[str, Any], window: Window
    ) -> torch.Tensor:
        view = window.resized(self.mask_size / self.options.window_size)
        size = record["height"], record["width"]
        try:
            mask = crop_mask(annotation["segmentation"], size, view, self.mask_size)
        except DataError as error:
            raise damaged(record, str(error)) from error
        return torch.from_numpy(mask)


def _object_box(annotation: dict[str, Any], record: dict[str, Any]) -> Box:
    """The visible box, which :func:`training_entries` could not see if the size was unknown."""
    left, top, right, bottom = visible_box(annotation, record)
    if left >= right or top >= bottom:
        raise damaged(record, "it lies outside the image")
    return left, top, right, bottom


def build_mapper(cfg: CfgNode, is_train: bool) -> PatchMapper:
    """The mapper from entries to patches."""
    return PatchMapper(cfg, is_train)


def build_train_loader(
    cfg: CfgNode, dataset_dicts: list[dict[str, Any]]
) -> Iterable[list[dict[str, Any]]]:
    """Endless batches of patches, ``SOLVER.IMS_PER_BATCH`` over all ranks.

    Objects are always balanced over categories: ``DATALOADER.SAMPLER_TRAIN`` and
    ``ASPECT_RATIO_GROUPING`` do not apply to patches.

    Images without an object to draw are never read, so ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``
    makes no difference.

    Raises:
        DataError: see :func:`training_entries`.
        ConfigError: no patch would have anything to train the model with.
    """
    options = SamplingOptions.from_config(cfg)
    frozen = cfg.MODEL.META_ARCHITECTURE == "SharpMask" and cfg.MODEL.SHARP_MASK.FREEZE_FEEDFORWARD
    if frozen and options.mask_share == 0:
        raise ConfigError(
            "MODEL.SHARP_MASK.SAMPLING.MASK_SHARE is 0, but while FREEZE_FEEDFORWARD is True "
            "SharpMask learns from masks alone: set it to 1.0"
        )
    entries = training_entries(dataset_dicts, options)
    return TrainingLoader(
        entries,
        build_mapper(cfg, is_train=True),
        lambda seed: CategoryBalancedSampler(entries.categories, seed),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=training_seed(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_test_loader(
    cfg: CfgNode, dataset_dicts: list[dict[str, Any]]
) -> Iterable[list[dict[str, Any]]]:
    """The held-out patches, split over the ranks, in batches as large as those of training.

    Raises:
        DataError: see :func:`training_entries`.
    """
    return build_detection_test_loader(
        dataset=testing_entries(dataset_dicts, SamplingOptions.from_config(cfg)),
        mapper=build_mapper(cfg, is_train=False),
        batch_size=max(cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), 1),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
