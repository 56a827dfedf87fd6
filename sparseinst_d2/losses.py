"""Losses and overlap measures of SparseInst (section 3.5), as pure functions.

Shape shorthand: M matched pairs of a predicted and a target mask, (h, w) the size of a target, P
its pixels, (h', w') that of the predicted logits, which are upsampled to (h, w). All functions want
float32 or float64: the sums over pixels overflow half precision.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .mask_resize import upsample

#: Keeps the dice of two empty masks defined.
DICE_EPSILON = 1e-4
#: A predicted pixel counts for the IoU target from this probability on.
IOU_PREDICTION_THRESHOLD = 0.4
#: A target pixel (resized bilinearly, so between 0 and 1) counts above this.
IOU_TARGET_THRESHOLD = 0.5
#: Pixels that the mask losses work on at a time. On a CPU so many stay in the cache; other devices
#: want more to do at a time.
CPU_CHUNK_PIXELS = 2**18
CHUNK_PIXELS = 2**22


def pairwise_dice(pred_probs: Tensor, gt_masks: Tensor) -> Tensor:
    """Dice of every prediction with every target: 2 sum(m t) / (sum m^2 + sum t^2 + 1e-4).

    Args:
        pred_probs: (N, P) probabilities.
        gt_masks: (n, P) values in 0..1.

    Returns:
        (N, n) in 0..1.
    """
    numerator = 2 * (gt_masks @ pred_probs.T).T
    pred_squares, gt_squares = (
        torch.linalg.vector_norm(masks, dim=1).square() for masks in (pred_probs, gt_masks)
    )
    return numerator / (pred_squares[:, None] + gt_squares + DICE_EPSILON)


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum of the focal loss, a_t (1 - p_t)^gamma * -log(p_t) (RetinaNet's equation 5).

    fvcore's has the derivative NaN with a gamma between 0 and 1 where 1 - p_t is rounded to 0. Here
    both factors come from the logit: -log(p_t) = softplus(-x_t), 1 - p_t = exp(-softplus(x_t)).

    Args:
        logits: of any shape.
        targets: of the same, 0 or 1.
        alpha: weight of the targets 1, 1 - alpha that of the others; negative for no weights.
        gamma: at least 0.
    """
    signed = logits * (targets * 2 - 1)  # x_t: the logit of the right answer's probability p_t
    loss = F.softplus(-signed)
    if gamma:
        loss = loss * (F.softplus(signed) * -gamma).exp()
    if alpha >= 0:
        loss = loss * (targets * (2 * alpha - 1) + (1 - alpha))
    return loss.sum()


def mask_losses(
    pred_logits: Tensor, gt_masks: Tensor, gt_index: Tensor, scale_factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The three measures that a mask is trained by, of M pairs with P pixels each.

    Nothing of size (M, h, w) is made or kept for the backward pass: some masks at a time are
    upsampled and summed over, and again in the backward pass. There are no second derivatives.

    Args:
        pred_logits: (M, h', w').
        gt_masks: (n, h, w) values in 0..1.
        gt_index: (M,) int64, which of the n targets each prediction is paired with.
        scale_factor: the logits are upsampled bilinearly by this to (h, w).

    Returns:
        the sum of the binary cross entropy over all pixels and masks; the sum over the masks of
        1 - dice; and, without a gradient since it is a target itself, the IoU (M,) in 0..1 of the
        predictions binarised at .4 and the targets binarised at .5.
    """
    return _MaskLosses.apply(pred_logits, gt_masks, gt_index, scale_factor)


class _MaskLosses(torch.autograd.Function):
    """:func:`mask_losses` and its gradient with respect to ``pred_logits``."""

    @staticmethod
    def forward(
        ctx: Any, pred_logits: Tensor, gt_masks: Tensor, gt_index: Tensor, scale_factor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        cross_entropy = pred_logits.new_zeros(())
        numerator, denominator, ious = (pred_logits.new_empty(len(gt_index)) for _ in range(3))
        for part in _chunks(gt_masks, gt_index):
            logits = upsample(pred_logits[part], scale_factor).flatten(1)
            targets = gt_masks[gt_index[part]].flatten(1)
            probs = logits.sigmoid()
            cross_entropy += _cross_entropy(logits, targets)
            numerator[part] = 2 * (probs * targets).sum(1)
            denominator[part] = probs.square().sum(1) + targets.square().sum(1) + DICE_EPSILON
            ious[part] = _binarised_iou(probs, targets)
        ctx.save_for_backward(pred_logits, gt_masks, gt_index, numerator, denominator)
        ctx.scale_factor = scale_factor
        ctx.mark_non_differentiable(ious)
        return cross_entropy, (1 - numerator / denominator).sum(), ious

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_cross_entropy: Tensor, grad_dice: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        pred_logits, gt_masks, gt_index, numerator, denominator = ctx.saved_tensors
        # 1 - dice changes with a probability p by p * by_prob - t * by_target.
        by_prob = (2 * grad_dice * numerator / denominator.square())[:, None, None]
        by_target = (2 * grad_dice / denominator)[:, None, None]
        gradient = torch.empty_like(pred_logits)
        for part in _chunks(gt_masks, gt_index):
            with torch.enable_grad():
                small = pred_logits[part].detach().requires_grad_()
                logits = upsample(small, ctx.scale_factor)
            targets = gt_masks[gt_index[part]]
            probs = logits.detach().sigmoid()
            of_logits = probs * by_prob[part] - targets * by_target[part]
            of_logits.mul_(probs).mul_(1 - probs)
            of_logits += (probs - targets).mul_(grad_cross_entropy)
            if logits is not small:
                (of_logits,) = torch.autograd.grad(logits, small, of_logits)
            gradient[part] = of_logits
        return gradient, None, None, None


def _chunks(gt_masks: Tensor, gt_index: Tensor) -> list[slice]:
    """The pairs, some at a time."""
    if not len(gt_index):
        return []
    pixels = CPU_CHUNK_PIXELS if gt_masks.device.type == "cpu" else CHUNK_PIXELS
    step = max(1, pixels // gt_masks[0].numel())
    return [slice(start, start + step) for start in range(0, len(gt_index), step)]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over all pixels of max(x, 0) - x t + log(1 + exp(-|x|))."""
    # In this order: the first two cancel where a prediction is right, the third is small there.
    loss = logits.clamp(min=0).sub_(logits * targets)
    return loss.add_(logits.abs().neg_().exp_().log1p_()).sum()


def _binarised_iou(probs: Tensor, targets: Tensor) -> Tensor:
    """(M, P) probabilities and values in 0..1 -> (M,)."""
    pred, target = probs >= IOU_PREDICTION_THRESHOLD, targets > IOU_TARGET_THRESHOLD
    intersection = (pred & target).sum(1).to(probs.dtype)
    union = (pred | target).sum(1).to(probs.dtype)
    return intersection / (union + 1e-6)
