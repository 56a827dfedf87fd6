"""Average recall of class-agnostic proposals, as Detectron2's evaluation loop wants it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from instseg_d2.data.image_proposals import proposals_of_instances
from instseg_d2.errors import DataError
from instseg_d2.rle_masks import RLEMasks

from .proposal_recall import ProposalRecall
from .recall_objects import dataset_ground_truth
from .recall_report import DEFAULT_LIMITS, RecallReport, checked_limits, depth_for

logger = logging.getLogger(__name__)


class ProposalEvaluator(DatasetEvaluator):
    """How many objects the proposals find, in boxes and, where there are any, in masks.

    It equals COCO's evaluation without categories. Each image is matched when it comes and then
    forgotten. Several processes may evaluate different images; the main one has the result.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        limits: Sequence[int] = DEFAULT_LIMITS,
        settings: str = "",
    ) -> None:
        """
        Args:
            dataset_name: registered with Detectron2.
            output_dir: folder for ``proposal_recall.json`` and plots; None for none.
            limits: numbers of proposals to state the recall at.
            settings: how the proposals were made, in words, to be stated with the table.

        Raises:
            ConfigError: limits that are not whole numbers above 0.
            DataError: the data set cannot be used.
        """
        self._limits = checked_limits(limits)
        self._output_dir = output_dir
        self._settings = settings
        self._truth = dataset_ground_truth(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._recall = ProposalRecall(depth_for(self._limits))

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: with ``image_id``.
            outputs: with ``proposals``: ``Instances`` of the original image's size with
                ``proposal_boxes``, ``objectness_logits`` and, for masks, ``pred_masks``
                (:class:`RLEMasks`).

        Raises:
            DataError: an image that the data set does not have or that came before; proposals that
                cannot be used. The message names the image.
        """
        for sample, answer in zip(inputs, outputs, strict=True):
            objects = self._truth[sample["image_id"]]
            proposals = answer["proposals"]
            _check_masks(proposals, objects.image_id)
            self._recall.add_image(objects, proposals_of_instances(objects.image_id, proposals))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """See :meth:`RecallReport.results`; empty if no image was processed, and None in processes
        but the main one.

        Raises:
            DataError: two processes had the same image; some images had masks, others only boxes.
        """
        comm.synchronize()
        parts = comm.gather(self._recall, dst=0)
        if not comm.is_main_process():
            return None
        recall = ProposalRecall(depth_for(self._limits))
        for part in parts:
            recall.merge(part)
        if not recall.num_proposals:
            logger.warning("There were no images to evaluate proposals on.")
            return {}
        report = RecallReport.of(recall, self._truth, self._limits)
        logger.info("\n".join(filter(None, [self._settings, report.table()])))
        if self._output_dir is not None:
            report.write(self._output_dir)
            logger.info("Recall curves: %s", self._output_dir)
        return report.results()


def _check_masks(proposals: Instances, image_id: int | str) -> None:
    if proposals.has("pred_masks") and not isinstance(proposals.pred_masks, RLEMasks):
        raise DataError(
            f"the proposals of image id {image_id!r} have masks of type "
            f"{type(proposals.pred_masks).__name__}; instseg_d2.rle_masks.RLEMasks are needed."
        )


def build_proposal_evaluator(cfg: CfgNode, dataset_name: str) -> ProposalEvaluator:
    """The evaluator of proposals on ``dataset_name``; it writes to ``OUTPUT_DIR/inference``.

    Raises:
        DataError: the data set cannot be used.
    """
    node = cfg.MODEL.SHARP_MASK
    scales = node.PROPOSALS.SCALES or f"'{node.PROPOSALS.PRESET}'"
    kind = "coarse" if cfg.MODEL.META_ARCHITECTURE == "DeepMask" else node.OUTPUT
    settings = (
        f"{kind} masks of the best {node.PROPOSALS.NUM} "
        f"windows at the scales {scales}; MASK_THRESHOLD {node.PROPOSALS.MASK_THRESHOLD}, "
        f"NMS_THRESHOLD {node.PROPOSALS.NMS_THRESHOLD}; weights {cfg.MODEL.WEIGHTS}"
    )
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference")
    return ProposalEvaluator(dataset_name, output_dir, settings=settings)
