"""The training loss of SparseInst (section 3.5, equations 5 and 6).

Shape shorthand: B images, N predictions an image, K classes, (h', w') the size of the predicted
masks, (h, w) that of the targets, M matches in the whole batch.

The weights follow the authors' code (with which the published models were trained) where it differs
from the paper: the pixel loss weighs 5, not 2.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.registry import look_up

from .losses import focal_loss, mask_losses
from .mask_targets import batch_targets
from .matcher import Match, build_matcher

SPARSE_INST_CRITERION_REGISTRY: Registry = Registry("SPARSE_INST_CRITERION")
SPARSE_INST_CRITERION_REGISTRY.__doc__ = """
Criteria, named by ``MODEL.SPARSE_INST.LOSS.NAME``.

Called as ``criterion(cfg)``; the module maps (decoder outputs, ground truth, padded input size,
scale factor) to a dict of weighted losses, see :meth:`SparseInstCriterion.forward`. With
``SOLVER.ACCUMULATE_STEPS`` above 1 it is also given ``totals``.
"""

LOSS_ITEMS = ("labels", "masks")
PREDICTIONS = ("pred_logits", "pred_masks", "pred_scores")


def build_criterion(cfg: CfgNode) -> nn.Module:
    """The criterion that ``MODEL.SPARSE_INST.LOSS.NAME`` names."""
    name = cfg.MODEL.SPARSE_INST.LOSS.NAME
    return look_up(SPARSE_INST_CRITERION_REGISTRY, name, "MODEL.SPARSE_INST.LOSS.NAME")(cfg)


@dataclass(frozen=True)
class StepTotals:
    """What the losses are normalised by: of all images that one optimiser step sees.

    Several processes take the mean of their gradients, so each divides by its part of the totals:
    that mean is then the gradient of all images in one process.

    Attributes:
        counts: of each process, the instances of each of its images.
    """

    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, counts: Sequence[int]) -> "StepTotals":
        """To be called in all processes at once.

        Args:
            counts: instances of each image of this process.
        """
        return cls(tuple(comm.all_gather(tuple(counts))))

    @property
    def num_instances(self) -> float:
        """Of all processes together, at least 1; divided by the number of processes."""
        return max(sum(map(sum, self.counts)), 1) / len(self.counts)

    def num_matches(self, num_predictions: int) -> float:
        """How many pairs the matcher gives in all processes together, with so many predictions an
        image; divided by the number of processes."""
        matches = (min(count, num_predictions) for counts in self.counts for count in counts)
        return sum(matches) / len(self.counts)


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
        scale_factor: float = 1.0,
        totals: StepTotals | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            outputs: ``pred_logits`` (B, N, K), ``pred_masks`` (B, N, h', w'), ``pred_scores`` (B,
                N, 1).
            gt_instances: per image, with ``gt_classes`` (n,) and ``gt_masks`` (BitMasks, n x H x W
                at the image's size before padding).
            padded_size: height and width of the padded input.
            scale_factor: the mask logits are upsampled bilinearly by this before they are compared
                with the targets. Logits that are still to be upsampled take far less memory: only
                those that are matched are upsampled for the losses, a few at a time.
            totals: of all images of the optimiser step, where these are a part of them; None: they
                are all. The losses of the parts add up to those of all images in one batch.

        Returns:
            scalars ``loss_ce``, ``loss_mask``, ``loss_dice``, ``loss_objectness``, already weighted
            (those that ``items`` ask for). Without any instance the last three are zero.
        """
        # Under autocast the heads give half precision, which the sums over pixels overflow.
        outputs = {name: _at_least_float32(outputs[name]) for name in PREDICTIONS}
        pred_masks = outputs["pred_masks"]
        with torch.autocast(pred_masks.device.type, enabled=False):
            gt_classes = [gt.gt_classes for gt in gt_instances]
            counts = [len(classes) for classes in gt_classes]
            size = [int(length * scale_factor) for length in pred_masks.shape[-2:]]
            gt_masks = batch_targets([gt.gt_masks for gt in gt_instances], padded_size, size)
            matches = self.matcher(
                outputs["pred_logits"], pred_masks, gt_classes, gt_masks.split(counts), scale_factor
            )
            pairs = _in_batch(matches, pred_masks.shape[1], counts, pred_masks.device)
            totals = totals or StepTotals.of(counts)
            losses = {}
            if "labels" in self.items:
                losses["loss_ce"] = self._class_loss(outputs, gt_classes, pairs, totals)
            if "masks" in self.items:
                losses |= self._mask_losses(outputs, gt_masks, pairs, totals, scale_factor)
        if set(self.items) != set(LOSS_ITEMS):
            # Heads without a loss stay in the graph, which DistributedDataParallel needs.
            unused = _zero_of(*outputs.values())
            losses = {name: value + unused for name, value in losses.items()}
        return losses

    def _class_loss(
        self,
        outputs: dict[str, Tensor],
        gt_classes: list[Tensor],
        pairs: Match,
        totals: StepTotals,
    ) -> Tensor:
        pred_index, gt_index = pairs
        logits = outputs["pred_logits"].flatten(0, 1)
        targets = torch.zeros_like(logits)
        targets[pred_index, torch.cat(gt_classes)[gt_index]] = 1
        loss = focal_loss(logits, targets, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return self.class_weight * loss / totals.num_instances

    def _mask_losses(
        self,
        outputs: dict[str, Tensor],
        gt_masks: Tensor,
        pairs: Match,
        totals: StepTotals,
        scale_factor: float,
    ) -> dict[str, Tensor]:
        pred_index, gt_index = pairs
        if not len(pred_index):
            # A mean over nothing is NaN; these zeros keep every head in the graph, which
            # DistributedDataParallel needs.
            zero = _zero_of(outputs["pred_masks"], outputs["pred_scores"])
            return {"loss_mask": zero, "loss_dice": zero, "loss_objectness": zero}
        num_matches = totals.num_matches(outputs["pred_masks"].shape[1])
        pred_masks = outputs["pred_masks"].flatten(0, 1).index_select(0, pred_index)
        pred_ious = outputs["pred_scores"].flatten().index_select(0, pred_index)
        cross_entropy, dice, ious = mask_losses(pred_masks, gt_masks, gt_index, scale_factor)
        num_pixels = num_matches * gt_masks[0].numel()
        # A mean over these matches, of which there may be more in the step.
        objectness = F.binary_cross_entropy_with_logits(pred_ious, ious)
        share = len(pred_index) / num_matches
        return {
            "loss_mask": self.mask_pixel_weight * cross_entropy / num_pixels,
            "loss_dice": self.mask_dice_weight * dice / totals.num_instances,
            "loss_objectness": self.objectness_weight * share * objectness,
        }


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _zero_of(*values: Tensor) -> Tensor:
    """0 whatever the values are, infinite ones included, with a gradient of 0 for each of them."""
    return torch.stack([value.flatten()[:0].sum() for value in values]).sum()


def _in_batch(
    matches: Sequence[Match], num_predictions: int, counts: Sequence[int], device: torch.device
) -> Match:
    """The matches of all images as indices (M,) into all predictions and all targets of a batch.

    Args:
        matches: per image.
        num_predictions: N, of every image.
        counts: the targets of each image.
        device: of the result.
    """
    first_targets = itertools.accumulate(counts, initial=0)
    pred, gt = zip(
        *(
            (pred_index + image * num_predictions, gt_index + first_target)
            for image, ((pred_index, gt_index), first_target) in enumerate(
                zip(matches, first_targets, strict=False)
            )
        ),
        strict=True,
    )
    return torch.cat(pred).to(device), torch.cat(gt).to(device)
