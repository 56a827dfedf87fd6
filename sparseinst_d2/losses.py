"""Losses and overlap measures of SparseInst (section 3.5), as pure functions.

Shape shorthand: n masks of P pixels each, flattened. All functions want float32 or float64: the
sums over pixels overflow half precision.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Keeps the dice of two empty masks defined.
DICE_EPSILON = 1e-4
#: A predicted pixel counts for the IoU target from this probability on.
IOU_PREDICTION_THRESHOLD = 0.4
#: A target pixel (resized bilinearly, so between 0 and 1) counts above this.
IOU_TARGET_THRESHOLD = 0.5


def pairwise_dice(pred_probs: Tensor, gt_masks: Tensor) -> Tensor:
    """Dice of every prediction with every target: 2 sum(m t) / (sum m^2 + sum t^2 + 1e-4).

    Args:
        pred_probs: (N, P) probabilities.
        gt_masks: (n, P) values in 0..1.

    Returns:
        (N, n) in 0..1.
    """
    numerator = 2 * pred_probs @ gt_masks.T
    denominator = pred_probs.square().sum(1)[:, None] + gt_masks.square().sum(1)[None]
    return numerator / (denominator + DICE_EPSILON)


def dice_loss(pred_logits: Tensor, gt_masks: Tensor) -> Tensor:
    """Sum over the masks of 1 - dice. Both arguments (n, P); returns a scalar."""
    probs = pred_logits.sigmoid()
    numerator = 2 * (probs * gt_masks).sum(1)
    denominator = probs.square().sum(1) + gt_masks.square().sum(1) + DICE_EPSILON
    return (1 - numerator / denominator).sum()


@torch.no_grad()
def binarised_iou(pred_logits: Tensor, gt_masks: Tensor) -> Tensor:
    """IoU of predictions binarised at .4 and targets binarised at .5, the target of the IoU head.

    Both arguments (n, P); returns (n,) in 0..1. No gradient: it is a target.
    """
    pred = (pred_logits.sigmoid() >= IOU_PREDICTION_THRESHOLD).to(pred_logits.dtype)
    target = (gt_masks > IOU_TARGET_THRESHOLD).to(pred_logits.dtype)
    intersection = (pred * target).sum(1)
    union = pred.sum(1) + target.sum(1) - intersection
    return intersection / (union + 1e-6)


def mask_bce_loss(pred_logits: Tensor, gt_masks: Tensor) -> Tensor:
    """Mean binary cross entropy over all pixels of all masks. Both arguments (n, P)."""
    return F.binary_cross_entropy_with_logits(pred_logits, gt_masks)
