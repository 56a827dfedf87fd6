"""The training loss of SparseInst (section 3.5, equations 5 and 6).

Shape shorthand: B images, N predictions an image, K classes, (h, w) the size of the predicted
masks, M matches in the whole batch.

The weights follow the authors' code (with which the published models were trained) where it differs
from the paper: the pixel loss weighs 5, not 2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from detectron2.utils.registry import Registry
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.registry import look_up

from .losses import binarised_iou, dice_loss, mask_bce_loss
from .matcher import Match, build_matcher

SPARSE_INST_CRITERION_REGISTRY: Registry = Registry("SPARSE_INST_CRITERION")
SPARSE_INST_CRITERION_REGISTRY.__doc__ = """
Criteria, named by ``MODEL.SPARSE_INST.LOSS.NAME``.

Called as ``criterion(cfg)``; the module maps (decoder outputs, ground truth, padded input size) to
a dict of weighted losses.
"""

LOSS_ITEMS = ("labels", "masks")
PREDICTIONS = ("pred_logits", "pred_masks", "pred_scores")


def build_criterion(cfg: CfgNode) -> nn.Module:
    """The criterion that ``MODEL.SPARSE_INST.LOSS.NAME`` names."""
    name = cfg.MODEL.SPARSE_INST.LOSS.NAME
    return look_up(SPARSE_INST_CRITERION_REGISTRY, name, "MODEL.SPARSE_INST.LOSS.NAME")(cfg)


@SPARSE_INST_CRITERION_REGISTRY.register()
class SparseInstCriterion(nn.Module):
    """Matches predictions with the ground truth and computes four weighted losses."""

    @configurable
    def __init__(
        self,
        *,
        matcher: nn.Module,
        items: Sequence[str] = LOSS_ITEMS,
        class_weight: float = 2.0,
        mask_pixel_weight: float = 5.0,
        mask_dice_weight: float = 2.0,
        objectness_weight: float = 1.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        """
        Args:
            matcher: see :class:`.matcher.SparseInstMatcher`.
            items: which losses, of "labels" (class) and "masks" (pixels, dice, objectness).
            class_weight, mask_pixel_weight, mask_dice_weight, objectness_weight: factors.
            focal_alpha: weight of the positives in the class loss; 1 - alpha is the negatives'.
            focal_gamma: how strongly easy examples are discounted; 0 is plain cross entropy.
        """
        super().__init__()
        if not items or set(items) - set(LOSS_ITEMS):
            raise ConfigError(
                f"MODEL.SPARSE_INST.LOSS.ITEMS is {tuple(items)}; give one or both of {LOSS_ITEMS}"
            )
        self.matcher = matcher
        self.items = tuple(items)
        self.class_weight = class_weight
        self.mask_pixel_weight = mask_pixel_weight
        self.mask_dice_weight = mask_dice_weight
        self.objectness_weight = objectness_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SPARSE_INST.LOSS
        return {
            "matcher": build_matcher(cfg),
            "items": node.ITEMS,
            "class_weight": node.CLASS_WEIGHT,
            "mask_pixel_weight": node.MASK_PIXEL_WEIGHT,
            "mask_dice_weight": node.MASK_DICE_WEIGHT,
            "objectness_weight": node.OBJECTNESS_WEIGHT,
            "focal_alpha": node.FOCAL_ALPHA,
            "focal_gamma": node.FOCAL_GAMMA,
        }

    def forward(
        self,
        outputs: dict[str, Tensor],
        gt_instances: list[Instances],
        padded_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """
        Args:
            outputs: ``pred_logits`` (B, N, K), ``pred_masks`` (B, N, h, w), ``pred_scores`` (B, N,
                1).
            gt_instances: per image, with ``gt_classes`` (n,) and ``gt_masks`` (BitMasks, n x H x W
                at the image's size before padding).
            padded_size: height and width of the padded input.

        Returns:
            scalars ``loss_ce``, ``loss_mask``, ``loss_dice``, ``loss_objectness``, already weighted
            (those that ``items`` ask for). Without any instance the last three are zero.
        """
        # Under autocast the heads give half precision, which the sums over pixels overflow.
        outputs = {name: outputs[name].float() for name in PREDICTIONS}
        with torch.autocast(outputs["pred_masks"].device.type, enabled=False):
            size = outputs["pred_masks"].shape[-2:]
            gt_masks = [mask_targets(gt.gt_masks, padded_size, size) for gt in gt_instances]
            gt_classes = [gt.gt_classes for gt in gt_instances]
            matches = self.matcher(
                outputs["pred_logits"], outputs["pred_masks"], gt_classes, gt_masks
            )
            num_instances = _mean_over_ranks(
                sum(len(classes) for classes in gt_classes), outputs["pred_masks"].device
            )
            losses = {}
            if "labels" in self.items:
                losses["loss_ce"] = self._class_loss(outputs, gt_classes, matches, num_instances)
            if "masks" in self.items:
                losses |= self._mask_losses(outputs, gt_masks, matches, num_instances)
        if set(self.items) != set(LOSS_ITEMS):
            # Heads without a loss stay in the graph, which DistributedDataParallel needs.
            unused = sum(value.sum() for value in outputs.values()) * 0
            losses = {name: value + unused for name, value in losses.items()}
        return losses

    def _class_loss(
        self,
        outputs: dict[str, Tensor],
        gt_classes: list[Tensor],
        matches: list[Match],
        num_instances: float,
    ) -> Tensor:
        logits = outputs["pred_logits"]
        targets = torch.zeros_like(logits)
        for image, (pred_index, gt_index) in enumerate(matches):
            targets[image, pred_index, gt_classes[image][gt_index]] = 1
        loss = sigmoid_focal_loss(
            logits, targets, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
        )
        return self.class_weight * loss / num_instances

    def _mask_losses(
        self,
        outputs: dict[str, Tensor],
        gt_masks: list[Tensor],
        matches: list[Match],
        num_instances: float,
    ) -> dict[str, Tensor]:
        def matched(predictions: Tensor) -> Tensor:
            """(B, N, ...) -> (M, pixels or 1)."""
            return torch.cat(
                [image[index] for image, (index, _) in zip(predictions, matches, strict=True)]
            ).flatten(1)

        pred_masks = matched(outputs["pred_masks"])
        pred_ious = matched(outputs["pred_scores"])[:, 0]
        targets = torch.cat(
            [masks[index] for masks, (_, index) in zip(gt_masks, matches, strict=True)]
        ).flatten(1)
        if not len(targets):
            # A mean over nothing is NaN; these zeros keep every head in the graph, which
            # DistributedDataParallel needs.
            zero = outputs["pred_masks"].sum() * 0 + outputs["pred_scores"].sum() * 0
            return {"loss_mask": zero, "loss_dice": zero, "loss_objectness": zero}
        ious = binarised_iou(pred_masks, targets)
        objectness = F.binary_cross_entropy_with_logits(pred_ious, ious)
        return {
            "loss_mask": self.mask_pixel_weight * mask_bce_loss(pred_masks, targets),
            "loss_dice": self.mask_dice_weight * dice_loss(pred_masks, targets) / num_instances,
            "loss_objectness": self.objectness_weight * objectness,
        }


def mask_targets(
    gt_masks: BitMasks, padded_size: tuple[int, int], output_size: Sequence[int]
) -> Tensor:
    """Ground-truth masks at the size of the predictions.

    Args:
        gt_masks: n masks of the image's size, H x W.
        padded_size: the input's size after padding, at least H x W.
        output_size: (h, w) of the predictions, which cover the padded input.

    Returns:
        (n, h, w) float32 in 0..1, resized bilinearly from the zero-padded masks.
    """
    masks = gt_masks.tensor
    height, width = padded_size
    padding = (0, width - masks.shape[-1], 0, height - masks.shape[-2])
    canvas = F.pad(masks.float(), padding)
    if not len(canvas):  # interpolate refuses an empty batch
        return canvas.new_zeros(0, *output_size)
    return F.interpolate(
        canvas[:, None], size=tuple(output_size), mode="bilinear", align_corners=False
    )[:, 0]


def _mean_over_ranks(count: int, device: torch.device) -> float:
    """The mean of ``count`` over all processes, at least 1 (so that empty batches divide by 1)."""
    if comm.get_world_size() > 1:
        total = torch.tensor(float(count), device=device)
        torch.distributed.all_reduce(total)
        return max(total.item() / comm.get_world_size(), 1.0)
    return max(float(count), 1.0)
