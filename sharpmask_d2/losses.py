"""Losses of DeepMask and SharpMask (arXiv 1506.06204, equation 1), as pure functions.

Both are sums over the samples, of the soft margin log(1 + exp(-y x)) of a logit x and a target y of
+1 or -1. All functions want float32 or float64.
"""

from torch import Tensor
from torch.nn import functional as F


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Element-wise log(1 + exp(-y x)); ``targets`` are +1 or -1, in the logits' shape and dtype."""
    return F.softplus(-targets * logits)


def mask_loss(pred_logits: Tensor, gt_masks: Tensor) -> Tensor:
    """Sum over n masks of the mean over their pixels; 0 for no mask.

    Args:
        pred_logits: (n, s, s).
        gt_masks: (n, s, s), bool.
    """
    targets = gt_masks.to(pred_logits.dtype) * 2 - 1
    return soft_margin(pred_logits, targets).mean(dim=(1, 2)).sum()


def score_loss(pred_logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over n windows; 0 for none.

    Args:
        pred_logits: (n,).
        labels: (n,), +1 for an object, -1 for none.
    """
    return soft_margin(pred_logits, labels.to(pred_logits.dtype)).sum()
