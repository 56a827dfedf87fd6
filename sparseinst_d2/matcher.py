"""Bipartite matching of predictions and ground truth (SparseInst, section 3.5, equation 4)."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from instseg_d2.registry import look_up

from .losses import pairwise_dice
from .mask_resize import upsample

SPARSE_INST_MATCHER_REGISTRY: Registry = Registry("SPARSE_INST_MATCHER")
SPARSE_INST_MATCHER_REGISTRY.__doc__ = """
Matchers, named by ``MODEL.SPARSE_INST.MATCHER.NAME``.

Called as ``matcher(cfg)``; the module assigns as :meth:`SparseInstMatcher.forward` describes.
"""

#: Of predicted masks at the targets' size at a time: bounds the memory.
MAX_PIXELS = 2**21

#: One image's matches: prediction indices and target indices, int64, equally long.
Match = tuple[Tensor, Tensor]


def build_matcher(cfg: CfgNode) -> nn.Module:
    """The matcher that ``MODEL.SPARSE_INST.MATCHER.NAME`` names."""
    name = cfg.MODEL.SPARSE_INST.MATCHER.NAME
    return look_up(SPARSE_INST_MATCHER_REGISTRY, name, "MODEL.SPARSE_INST.MATCHER.NAME")(cfg)


@SPARSE_INST_MATCHER_REGISTRY.register()
class SparseInstMatcher(nn.Module):
    """Assigns each target the prediction that maximises, over the whole image, the sum of

    score(i, k) = p_i(class of k) ** beta * dice(mask_i, mask_k) ** alpha.
    """

    @configurable
    def __init__(self, *, alpha: float = 0.8, beta: float = 0.2) -> None:
        """
        Args:
            alpha: exponent of the dice.
            beta: exponent of the class probability.
        """
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SPARSE_INST.MATCHER
        return {"alpha": node.ALPHA, "beta": node.BETA}

    @torch.no_grad()
    def forward(
        self,
        pred_logits: Tensor,
        pred_masks: Tensor,
        gt_classes: Sequence[Tensor],
        gt_masks: Sequence[Tensor],
        scale_factor: float = 1.0,
    ) -> list[Match]:
        """
        Args:
            pred_logits: (B, N, K) class logits.
            pred_masks: (B, N, h', w') mask logits.
            gt_classes: per image (n,) int64 in 0..K-1.
            gt_masks: per image (n, h, w), values in 0..1.
            scale_factor: the mask logits are upsampled bilinearly by this to the size of the
                targets, (h, w).

        Returns:
            per image the pairs (prediction index, target index), min(N, n) of them, on the CPU, in
            ascending order of the prediction index.
        """
        # Half precision overflows in the sums over pixels, so the scores are computed in float32
        # whatever the autocast state.
        with torch.autocast(pred_masks.device.type, enabled=False):
            scores = [
                self._scores(*image, scale_factor)
                for image in zip(pred_logits, pred_masks, gt_classes, gt_masks, strict=True)
            ]
        # All at once: a GPU is waited for a single time.
        on_cpu = torch.cat([score.flatten() for score in scores]).cpu()
        sizes = [score.numel() for score in scores]
        return [
            _assign(flat.view_as(score))
            for flat, score in zip(on_cpu.split(sizes), scores, strict=True)
        ]

    def _scores(
        self,
        pred_logits: Tensor,
        pred_masks: Tensor,
        gt_classes: Tensor,
        gt_masks: Tensor,
        scale_factor: float,
    ) -> Tensor:
        """(N, n), every prediction of an image with every target."""
        if not len(gt_classes):
            return pred_masks.new_zeros(len(pred_masks), 0, dtype=torch.float32)
        targets = gt_masks.float().flatten(1)
        dice = torch.cat(
            [
                pairwise_dice(upsample(some.float(), scale_factor).flatten(1).sigmoid(), targets)
                for some in pred_masks.split(max(1, MAX_PIXELS // targets.shape[1]))
            ]
        )
        class_probs = pred_logits.float()[:, gt_classes].sigmoid()
        score = dice**self.alpha * class_probs**self.beta
        # A non-finite prediction must not stop here with scipy's message: its loss is non-finite
        # too, which the training loop reports with the iteration and every loss.
        return torch.nan_to_num(score, nan=0.0, posinf=0.0, neginf=0.0)


def _assign(scores: Tensor) -> Match:
    """The pairs with the greatest sum of scores (N, n)."""
    pred_index, gt_index = linear_sum_assignment(scores.numpy(), maximize=True)
    return torch.as_tensor(pred_index), torch.as_tensor(gt_index)
