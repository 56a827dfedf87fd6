"""The evaluator that fits a data set, by the metadata that Detectron2 keeps of it."""

import importlib.util
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
)

from .coco_evaluator import FastCOCOEvaluator
from .errors import ConfigError
from .families import family_of

#: Evaluator type -> the package that its evaluation needs.
PACKAGE_OF_EVALUATOR = {
    "coco": "pycocotools",
    "lvis": "lvis",
    "cityscapes_instance": "cityscapesscripts",
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of ``dataset_name``; results are written to ``OUTPUT_DIR/inference``.

    Models with masks are evaluated in boxes and masks, others in boxes; COCO-format data by
    :class:`.FastCOCOEvaluator`, LVIS and Cityscapes by their own code.

    Raises:
        ConfigError: see :func:`check_evaluator`.
    """
    kind = check_evaluator(dataset_name)
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference")
    if kind == "coco":
        return FastCOCOEvaluator(dataset_name, output_dir)
    if kind == "lvis":
        has_masks = family_of(cfg) is not None or cfg.MODEL.MASK_ON
        tasks = ("bbox", "segm") if has_masks else ("bbox",)
        return LVISEvaluator(dataset_name, tasks=tasks, output_dir=output_dir)
    return CityscapesInstanceEvaluator(dataset_name)


def check_evaluator(dataset_name: str) -> str:
    """The evaluator type of a (loaded) data set.

    Raises:
        ConfigError: the type is unknown, or its package is not installed.
    """
    kind: str | None = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind is None or kind not in PACKAGE_OF_EVALUATOR:
        raise ConfigError(
            f"the data set {dataset_name!r} has the evaluator type {kind!r}; known are "
            f"{', '.join(PACKAGE_OF_EVALUATOR)}. Set it with "
            f"MetadataCatalog.get({dataset_name!r}).set(evaluator_type='coco')."
        )
    package = PACKAGE_OF_EVALUATOR[kind]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"evaluating {dataset_name!r} needs the package {package}: pip install {package}"
        )
    return kind
