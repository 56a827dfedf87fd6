"""Training samples: SparseInst's mapper beside Detectron2's."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper

from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.errors import DataError
from sparseinst_d2.dataset_mapper import build_mapper

from .differences import mask_share
from .settings import Settings, require_architecture
from .stages import PRODUCT
from .timing import Comparison, Side

IMAGES = 20
DETECTRON2 = "detectron2"


def data_loading(settings: Settings) -> Iterator[Comparison]:
    """The first images with objects of ``DATASETS.TRAIN``, in one process.

    Both draw the same augmentations; the crop, which Detectron2 does in another way, is left out.

    Raises:
        ConfigError: another model than SparseInst.
        DataError: the data set cannot be read, or has no objects.
    """
    cfg = settings.cfg()
    require_architecture(cfg, ["SparseInst"], "the benchmark of data loading")
    cfg.INPUT.CROP.ENABLED = False
    records = first_records(cfg, settings.images or IMAGES)
    sides = {
        PRODUCT: _side(build_mapper(cfg, True), records),
        DETECTRON2: _side(detectron2_mapper(cfg), records),
    }
    yield Comparison("mapper", sides, len(records), difference=_difference, memory=False)


def first_records(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """Records of Detectron2's form.

    Raises:
        DataError: see :func:`data_loading`.
    """
    register_config_datasets(cfg)
    records: list[dict[str, Any]] = []
    for name in cfg.DATASETS.TRAIN:
        records += [record for record in DatasetCatalog.get(name) if record["annotations"]]
        if len(records) >= count:
            return records[:count]
    if not records:
        raise DataError(f"DATASETS.TRAIN, {', '.join(cfg.DATASETS.TRAIN)}, has no objects")
    return records


def detectron2_mapper(cfg: CfgNode) -> DatasetMapper:
    """That of ``DatasetMapper`` which gives bitmasks, as SparseInst wants them."""
    cfg = cfg.clone()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return DatasetMapper(cfg, True)


def _side(mapper: Callable[[dict[str, Any]], Any], records: list[dict[str, Any]]) -> Side:
    def setup() -> list[dict[str, Any]]:
        np.random.seed(0)
        random.seed(0)
        return copy.deepcopy(records)

    return Side(lambda given: [mapper(record) for record in given], setup)


def _difference(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> float | None:
    """The share of mask pixels that differ; None for other images or other objects."""
    for one, other in zip(first, second, strict=True):
        if not bool((one["image"] == other["image"]).all()):
            return None
    answers = []
    for samples in (first, second):
        answers.append([sample["instances"] for sample in samples])
        for instances in answers[-1]:
            instances.pred_masks = instances.gt_masks.tensor
    return mask_share(*answers)
