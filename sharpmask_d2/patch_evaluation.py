"""How well masks and scores of single patches are predicted."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

#: Key of a model's answer -> task under which it is reported.
MASK_ANSWERS = {"mask_logits": "mask", "coarse_logits": "coarse mask"}
IOU_THRESHOLDS = (0.5, 0.7)


def resized_logits(logits: Tensor, size: torch.Size) -> Tensor:
    """Mask logits (h, w) -> (H, W), bilinearly and corner to corner as in training."""
    if logits.shape == size:
        return logits
    resized = F.interpolate(
        logits[None, None].float(), tuple(size), mode="bilinear", align_corners=True
    )
    return resized[0, 0]


def mask_iou(logits: Tensor, target: Tensor) -> float:
    """Intersection over union of a predicted and a true mask; 1 where both are empty.

    Args:
        logits: (h, w); resized to the target where its size differs.
        target: (H, W) bool.
    """
    predicted = resized_logits(logits, target.shape) > 0
    union = (predicted | target).sum().item()
    return (predicted & target).sum().item() / union if union else 1.0


def mask_metrics(ious: list[float]) -> dict[str, float]:
    """Mean and median IoU and the shares above :data:`IOU_THRESHOLDS`, in percent; nan without
    any."""
    values = torch.tensor(ious, dtype=torch.float64)
    if not len(values):
        values = torch.tensor([float("nan")], dtype=torch.float64)
    metrics = {"mean IoU": values.mean(), "median IoU": values.quantile(0.5)}
    for threshold in IOU_THRESHOLDS:
        share = (values >= threshold).double().mean()
        metrics[f"IoU >= {threshold}"] = torch.where(values.isnan().any(), torch.nan, share)
    return {name: 100 * value.item() for name, value in metrics.items()}


class PatchEvaluator(DatasetEvaluator):
    """Mask quality on patches with an object, score accuracy on patches with and without.

    :meth:`evaluate` gives, in percent, ``{"mask": {"mean IoU", "median IoU", "IoU >= 0.5",
    "IoU >= 0.7"}, "coarse mask": likewise (SharpMask only), "score": {"accuracy"}}``; nan where
    there were no such patches. A patch counts as an object when its score logit is positive.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ious: dict[str, list[float]] = {}
        self._hits: list[bool] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: as the test mapper makes them: ``kind``, ``label``, and for "mask" ``gt_mask``.
            outputs: as the models give them: ``score_logit`` and those of :data:`MASK_ANSWERS`.
        """
        for sample, answer in zip(inputs, outputs, strict=True):
            if sample["kind"] == "score":
                self._hits.append((answer["score_logit"].item() > 0) == (sample["label"] > 0))
                continue
            for key, task in MASK_ANSWERS.items():
                if key in answer:
                    target = sample["gt_mask"].to(answer[key].device)
                    self._ious.setdefault(task, []).append(mask_iou(answer[key], target))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """The metrics over all processes; None in those but the main one."""
        comm.synchronize()
        parts = comm.gather((self._ious, self._hits), dst=0)
        if not comm.is_main_process():
            return None
        results: dict[str, dict[str, float]] = OrderedDict()
        tasks = [task for task in MASK_ANSWERS.values() if any(task in ious for ious, _ in parts)]
        for task in tasks or ["mask"]:
            results[task] = mask_metrics([iou for ious, _ in parts for iou in ious.get(task, [])])
        hits = torch.tensor([hit for _, hits in parts for hit in hits], dtype=torch.float64)
        results["score"] = {"accuracy": 100 * hits.mean().item()}
        return results
