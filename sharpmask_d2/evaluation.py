"""What DeepMask and SharpMask are evaluated on: whole images, or held-out patches.

While they are trained, patches say in seconds how masks and scores improve. The proposals of whole
images are what the networks are for, and take a hundred times as long.
"""

from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator

from instseg_d2.data.whole_images import WholeImageMapper

from . import dataset_mapper
from .options import choose
from .patch_evaluation import MASK_ANSWERS, PatchEvaluator, mask_metrics
from .proposal_evaluation import build_proposal_evaluator
from .proposal_recall import BOXES, MASKS
from .recall_report import DEFAULT_LIMITS, metric_names

KEY = "MODEL.SHARP_MASK.EVALUATION"


def prepare_eval_only(cfg: CfgNode) -> None:
    """Have an evaluation that no training waits for judge proposals, unless ``cfg`` says else."""
    if cfg.MODEL.SHARP_MASK.EVALUATION == "auto":
        cfg.MODEL.SHARP_MASK.EVALUATION = "proposals"


def evaluates_proposals(cfg: CfgNode) -> bool:
    """Whether the evaluation is of whole images.

    Raises:
        ConfigError: ``MODEL.SHARP_MASK.EVALUATION`` is none of "auto", "patches" and "proposals".
    """
    kinds = {"auto": False, "patches": False, "proposals": True}
    return choose(kinds, cfg.MODEL.SHARP_MASK.EVALUATION, KEY)


def build_test_loader(
    cfg: CfgNode, dataset_dicts: list[dict[str, Any]]
) -> Iterable[list[dict[str, Any]]]:
    """Whole images, one at a time and at their own size, or held-out patches.

    Raises:
        DataError: see :func:`.dataset_mapper.build_test_loader`.
    """
    if not evaluates_proposals(cfg):
        return dataset_mapper.build_test_loader(cfg, dataset_dicts)
    return build_detection_test_loader(
        dataset=dataset_dicts,
        mapper=WholeImageMapper(cfg.INPUT.FORMAT),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of what :func:`build_test_loader` gives."""
    if evaluates_proposals(cfg):
        return build_proposal_evaluator(cfg, dataset_name)
    return PatchEvaluator()


def known_metrics(cfg: CfgNode) -> list[str]:
    """All that the evaluator of :func:`build_evaluator` may give, as "task/metric"."""
    if evaluates_proposals(cfg):
        return [
            f"{task}/{name}" for task in (BOXES, MASKS) for name in metric_names(DEFAULT_LIMITS)
        ]
    tasks = list(MASK_ANSWERS.values()) if cfg.MODEL.META_ARCHITECTURE == "SharpMask" else ["mask"]
    return [*(f"{task}/{name}" for task in tasks for name in mask_metrics([])), "score/accuracy"]
