import math

import pytest
import torch

from sharpmask_d2.patch_evaluation import PatchEvaluator, mask_iou, mask_metrics


def square(size: int, start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[start:stop, start:stop] = True
    return mask


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() * 10 - 5


def sample(kind: str, label: int = 1, mask: torch.Tensor | None = None) -> dict:
    return {"kind": kind, "label": label} | ({} if mask is None else {"gt_mask": mask})


def test_iou_by_hand() -> None:
    assert mask_iou(logits_of(square(8, 0, 4)), square(8, 2, 6)) == pytest.approx(4 / 28)
    assert mask_iou(logits_of(square(8, 0, 4)), square(8, 4, 8)) == 0
    assert mask_iou(logits_of(square(8, 0, 0)), square(8, 0, 0)) == 1


def test_a_smaller_answer_is_resized() -> None:
    half = torch.full((28, 56), -5.0)
    half[:, 28:] = 5.0
    target = torch.zeros(112, 112, dtype=torch.bool)
    target[:, 56:] = True
    assert mask_iou(half, target) == 1


def test_metrics_by_hand() -> None:
    metrics = mask_metrics([0.2, 0.5, 0.6, 0.9])
    assert metrics == pytest.approx(
        {"mean IoU": 55, "median IoU": 55, "IoU >= 0.5": 75, "IoU >= 0.7": 25}
    )
    assert all(math.isnan(value) for value in mask_metrics([]).values())


def test_masks_and_scores_are_judged_apart() -> None:
    target = square(8, 2, 6)
    wrong, right = logits_of(~target), logits_of(target)
    evaluator = PatchEvaluator()
    evaluator.process(
        [sample("mask", mask=target), sample("score", 1), sample("score", -1), sample("score", 1)],
        [
            {"mask_logits": right, "coarse_logits": wrong, "score_logit": torch.tensor(-9.0)},
            {"mask_logits": wrong, "score_logit": torch.tensor(1.0)},
            {"mask_logits": wrong, "score_logit": torch.tensor(-1.0)},
            {"mask_logits": wrong, "score_logit": torch.tensor(-1.0)},
        ],
    )
    results = evaluator.evaluate()
    assert list(results) == ["mask", "coarse mask", "score"]
    assert results["mask"]["mean IoU"] == 100
    assert results["coarse mask"]["mean IoU"] == 0
    assert results["score"]["accuracy"] == pytest.approx(200 / 3)
    evaluator.reset()
    assert all(
        math.isnan(value) for task in evaluator.evaluate().values() for value in task.values()
    )
