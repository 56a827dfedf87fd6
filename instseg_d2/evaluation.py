"""The evaluator that fits a data set, by the metadata that Detectron2 keeps of it."""

import importlib.util
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
)

from .errors import ConfigError

EVALUATOR_TYPES = ("coco", "lvis", "cityscapes_instance")


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of ``dataset_name``; results are written to ``OUTPUT_DIR/inference``.

    COCO-format data is evaluated in boxes and masks, LVIS and Cityscapes with their own code.

    Raises:
        ConfigError: the data set's ``evaluator_type`` is unknown, or its package is not installed.
    """
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference")
    kind = getattr(MetadataCatalog.get(dataset_name), "evaluator_type", None)
    if kind == "coco":
        # The tasks are named, so that a model that finds nothing is evaluated in masks, too.
        return COCOEvaluator(dataset_name, tasks=("bbox", "segm"), output_dir=output_dir)
    if kind == "lvis":
        _require("lvis", dataset_name)
        return LVISEvaluator(dataset_name, tasks=("bbox", "segm"), output_dir=output_dir)
    if kind == "cityscapes_instance":
        _require("cityscapesscripts", dataset_name)
        return CityscapesInstanceEvaluator(dataset_name)
    raise ConfigError(
        f"the data set {dataset_name!r} has the evaluator type {kind!r}; known are "
        f"{', '.join(EVALUATOR_TYPES)}. Set it with "
        f"MetadataCatalog.get({dataset_name!r}).set(evaluator_type='coco')."
    )


def _require(package: str, dataset_name: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"evaluating {dataset_name!r} needs the package {package}: pip install {package}"
        )
