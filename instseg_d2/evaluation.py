"""The evaluator that fits a data set, by the metadata that Detectron2 keeps of it."""

import importlib.util
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .cityscapes_evaluator import CityscapesEvaluator
from .coco_evaluator import FastCOCOEvaluator
from .errors import ConfigError
from .families import family_of
from .lvis_evaluator import FastLVISEvaluator

#: Evaluator type -> the package that its evaluation needs.
PACKAGE_OF_EVALUATOR = {
    "coco": "pycocotools",
    "lvis": "faster-coco-eval",
    "cityscapes_instance": "cityscapesscripts",
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of ``dataset_name``; results are written to ``OUTPUT_DIR/inference``.

    Models with masks are evaluated in boxes and masks, others in boxes; COCO-format data by
    :class:`.FastCOCOEvaluator`, LVIS by :class:`.FastLVISEvaluator`, Cityscapes by
    the data set's own scripts.

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
        return FastLVISEvaluator(dataset_name, output_dir, tasks=tasks)
    return CityscapesEvaluator(dataset_name)


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
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise ConfigError(
            f"evaluating {dataset_name!r} needs the package {package}: pip install {package}"
        )
    return kind
