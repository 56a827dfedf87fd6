"""SparseInst's postprocessing as it reads on paper (design 4.2); slow, and the oracle of the tests.

All kept masks are in memory at full size, in float, twice.
"""

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from sparseinst_d2.postprocess import PostprocessOptions


def plain_instances(
    outputs: dict[str, Tensor],
    i: int,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    options: PostprocessOptions,
) -> Instances:
    """The instances of image ``i`` of a batch, in ascending order of the prediction index.

    Args:
        outputs: ``pred_logits`` (B, N, K), ``pred_scores`` (B, N, 1), ``pred_masks`` (B, N, h, w).
        i: which image of the batch.
        padded_size, image_size, output_size: (height, width) of the padded input, of the image in
            it, and of the result.
        options: thresholds and limits.
    """
    class_probs = outputs["pred_logits"][i].sigmoid()
    iou_probs = outputs["pred_scores"][i].sigmoid()
    scores, classes = torch.sqrt(class_probs * iou_probs).max(dim=1)
    kept = scores > options.cls_threshold
    scores, classes = scores[kept], classes[kept]
    probs = outputs["pred_masks"][i][kept].sigmoid()

    inside = (probs > options.mask_threshold).float()
    scores = scores * (probs * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    ranking = scores.argsort(descending=True)
    ranking = ranking[scores[ranking] > options.score_threshold]
    best = ranking[: options.max_detections].sort().values

    masks = plain_masks(probs[best], padded_size, image_size, output_size, options.mask_threshold)
    result = Instances(output_size)
    result.pred_boxes = BitMasks(masks).get_bounding_boxes()
    result.scores = scores[best]
    result.pred_classes = classes[best]
    result.pred_masks = masks
    return result


def plain_masks(
    probs: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float,
) -> Tensor:
    """Probabilities (n, h, w) over the padded input -> masks (n, *output_size) bool."""
    return plain_probabilities(probs, padded_size, image_size, output_size) > threshold


def plain_probabilities(
    probs: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """Probabilities (n, h, w) over the padded input -> (n, *output_size) over the image."""
    height, width = image_size
    for size in (padded_size, output_size):
        if not len(probs):  # interpolate refuses an empty batch
            return probs.new_zeros(0, *output_size)
        probs = F.interpolate(probs[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        probs = probs[:, :height, :width] if size == padded_size else probs
    return probs
