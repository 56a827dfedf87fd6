"""SparseInst's matching and losses as they read on paper (design 4.3); the oracle of the tests.

Image by image, every quantity from its definition, nothing shared.
"""

import torch
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from sparseinst_d2 import SparseInstCriterion


def plain_losses(
    criterion: SparseInstCriterion,
    outputs: dict[str, Tensor],
    gt_instances: list[Instances],
    padded_size: tuple[int, int],
) -> dict[str, Tensor]:
    """The weighted losses of one batch in one process.

    Args:
        criterion: whose weights are used.
        outputs: ``pred_logits`` (B, N, K), ``pred_masks`` (B, N, h, w), ``pred_scores`` (B, N, 1).
        gt_instances: per image, with ``gt_classes`` and ``gt_masks`` (BitMasks).
        padded_size: height and width of the padded input.
    """
    logits = outputs["pred_logits"]
    size = outputs["pred_masks"].shape[-2:]
    class_targets = torch.zeros_like(logits)
    pred_masks, pred_ious, gt_masks = [], [], []
    for i, gt in enumerate(gt_instances):
        targets = plain_targets(gt.gt_masks.tensor, padded_size, size).to(logits.dtype)
        image_masks = outputs["pred_masks"][i].flatten(1)
        pred, target = plain_match(
            logits[i], image_masks, gt.gt_classes, targets,
            alpha=criterion.matcher.alpha, beta=criterion.matcher.beta,
        )  # fmt: skip
        class_targets[i, pred, gt.gt_classes[target]] = 1
        pred_masks.append(image_masks[pred])
        pred_ious.append(outputs["pred_scores"][i, pred, 0])
        gt_masks.append(targets[target])
    num_instances = max(sum(len(gt) for gt in gt_instances), 1)
    losses = {
        "loss_ce": criterion.class_weight
        * plain_focal_loss(logits, class_targets, criterion.focal_alpha, criterion.focal_gamma)
        / num_instances,
        **_mask_losses(
            criterion, torch.cat(pred_masks), torch.cat(pred_ious), torch.cat(gt_masks),
            num_instances,
        ),
    }  # fmt: skip
    wanted = {"labels": {"loss_ce"}, "masks": set(losses) - {"loss_ce"}}
    return {
        name: loss
        for name, loss in losses.items()
        if any(name in wanted[item] for item in criterion.items)
    }


def plain_targets(
    masks: Tensor, padded_size: tuple[int, int], size: tuple[int, int] | torch.Size
) -> Tensor:
    """(n, H, W) bool -> (n, h*w) float: placed on a zero canvas and resized bilinearly."""
    canvas = torch.zeros(len(masks), *padded_size, device=masks.device)
    canvas[:, : masks.shape[1], : masks.shape[2]] = masks
    if not len(masks):  # interpolate refuses an empty batch
        return torch.zeros(0, size[0] * size[1], device=masks.device)
    return F.interpolate(
        canvas[:, None], size=tuple(size), mode="bilinear", align_corners=False
    ).flatten(1)


@torch.no_grad()
def plain_match(
    logits: Tensor, masks: Tensor, gt_classes: Tensor, targets: Tensor, *, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Of one image: the pairs (prediction index, target index) of the best assignment."""
    probs = masks.sigmoid()
    numerator = 2 * probs @ targets.T
    denominator = (probs**2).sum(1)[:, None] + (targets**2).sum(1)[None] + 1e-4
    class_probs = logits.sigmoid()[:, gt_classes]
    score = (numerator / denominator) ** alpha * class_probs**beta
    pred, target = linear_sum_assignment(score.cpu().numpy(), maximize=True)
    return torch.as_tensor(pred, device=masks.device), torch.as_tensor(target, device=masks.device)


def plain_focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sum over all predictions and classes of -alpha_t (1 - p_t)^gamma log p_t."""
    probs = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = probs * targets + (1 - probs) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum()


def _mask_losses(
    criterion: SparseInstCriterion,
    masks: Tensor,
    ious: Tensor,
    targets: Tensor,
    num_instances: float,
) -> dict[str, Tensor]:
    """``masks`` and ``targets`` (M, P) and ``ious`` (M,), all of matched pairs."""
    if not len(masks):
        zero = masks.sum() + ious.sum()
        return {"loss_mask": zero, "loss_dice": zero, "loss_objectness": zero}
    bce = F.binary_cross_entropy_with_logits(masks, targets)

    probs = masks.sigmoid()
    numerator = 2 * (probs * targets).sum(1)
    denominator = (probs**2).sum(1) + (targets**2).sum(1) + 1e-4
    dice = (1 - numerator / denominator).sum()

    with torch.no_grad():
        pred_pixels = masks.sigmoid() >= 0.4
        gt_pixels = targets > 0.5
        intersection = (pred_pixels & gt_pixels).sum(1).to(masks.dtype)
        union = (pred_pixels | gt_pixels).sum(1).to(masks.dtype)
    objectness = F.binary_cross_entropy_with_logits(ious, intersection / (union + 1e-6))
    return {
        "loss_mask": criterion.mask_pixel_weight * bce,
        "loss_dice": criterion.mask_dice_weight * dice / num_instances,
        "loss_objectness": criterion.objectness_weight * objectness,
    }
