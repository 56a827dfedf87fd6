"""From network outputs to ``Instances``: the one path of training's evaluation and of prediction.

Shape shorthand: B images, N predictions, K classes, (h, w) the size of the predicted masks; n of
the N predictions survive. Logits become scores here and nowhere else.
"""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

#: Masks resized at a time: bounds the full-size float memory on large images.
RESIZE_CHUNK = 16


@dataclass(frozen=True)
class PostprocessOptions:
    """What is kept and where masks are cut.

    Attributes:
        cls_threshold: a class score (before the mask rescoring) must be above this.
        mask_threshold: a pixel's probability must be above this.
        score_threshold: a final score must be above this.
        max_detections: the most instances per image, the best by final score.
    """

    cls_threshold: float = 0.005
    mask_threshold: float = 0.45
    score_threshold: float = 0.0
    max_detections: int = 100


def class_scores(pred_logits: Tensor, pred_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Each prediction's best class and its score, sqrt(class probability * predicted IoU).

    Args:
        pred_logits: (..., N, K) class logits.
        pred_scores: (..., N, 1) IoU logits.

    Returns:
        scores (..., N) in 0..1 and classes (..., N) int64.
    """
    scores = (pred_logits.float().sigmoid() * pred_scores.float().sigmoid()).sqrt()
    best = scores.max(dim=-1)
    return best.values, best.indices


def maskness(mask_probs: Tensor, threshold: float) -> Tensor:
    """Mean probability over the pixels above ``threshold``; 0 for a mask without such a pixel.

    (n, h, w) probabilities -> (n,).
    """
    inside = (mask_probs > threshold).to(mask_probs.dtype)
    return (mask_probs * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)


def postprocess_image(
    pred_logits: Tensor,
    pred_scores: Tensor,
    pred_masks: Tensor,
    *,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    options: PostprocessOptions,
) -> Instances:
    """The instances of one image, in ascending order of prediction index.

    Args:
        pred_logits: (N, K) class logits.
        pred_scores: (N, 1) IoU logits.
        pred_masks: (N, h, w) mask logits over the padded input.
        padded_size: size of the padded input, (height, width) like the two below.
        image_size: size of the image in it, before padding.
        output_size: size that masks and boxes are wanted at.
        options: thresholds and limits.

    Returns:
        ``Instances`` of ``output_size`` with ``pred_boxes`` (tight around the mask; XYXY absolute),
        ``scores`` (final, in 0..1), ``pred_classes`` int64 and ``pred_masks`` (n, H, W) bool, in
        ascending order of the prediction index; all four are there when n is 0, too.
    """
    scores, classes = class_scores(pred_logits, pred_scores)
    keep = torch.nonzero(scores > options.cls_threshold)[:, 0]
    probs = pred_masks[keep].float().sigmoid()
    scores = scores[keep] * maskness(probs, options.mask_threshold)
    best = _best(scores, options)
    masks = resize_masks(probs[best], padded_size, image_size, output_size, options.mask_threshold)
    result = Instances(output_size)
    result.pred_boxes = Boxes(boxes_from_masks(masks))
    result.scores = scores[best]
    result.pred_classes = classes[keep[best]]
    result.pred_masks = masks
    return result


def _best(scores: Tensor, options: PostprocessOptions) -> Tensor:
    """Indices, ascending, of the scores that pass the threshold and are among the best."""
    keep = torch.nonzero(scores > options.score_threshold)[:, 0]
    if len(keep) > options.max_detections:
        keep = keep[scores[keep].topk(options.max_detections).indices].sort().values
    return keep


def resize_masks(
    mask_probs: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float,
) -> Tensor:
    """Stretch masks over the padded input, cut the padding away, stretch to the output, binarise.

    Args:
        mask_probs: (n, h, w) probabilities.
        padded_size, image_size, output_size: see :func:`postprocess_image`.
        threshold: a pixel belongs to the mask above this probability.

    Returns:
        (n, *output_size) bool.
    """
    masks = torch.empty((len(mask_probs), *output_size), dtype=torch.bool, device=mask_probs.device)
    height, width = image_size
    for start in range(0, len(mask_probs), RESIZE_CHUNK):
        chunk = slice(start, start + RESIZE_CHUNK)
        padded = _resize(mask_probs[chunk, None], padded_size)
        masks[chunk] = (_resize(padded[..., :height, :width], output_size) > threshold)[:, 0]
    return masks


def boxes_from_masks(masks: Tensor) -> Tensor:
    """Tight boxes (n, 4), XYXY in pixels (right and bottom exclusive), of masks (n, H, W) bool.

    An empty mask has the box (0, 0, 0, 0).
    """
    spans = []
    for axis in (1, 2):  # any() over rows leaves columns, so x comes first
        occupied = masks.any(dim=axis)
        length = occupied.shape[1]
        position = torch.arange(length, device=masks.device)
        first = torch.where(occupied, position, length).amin(dim=1)
        last = torch.where(occupied, position + 1, 0).amax(dim=1)
        spans.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=1).float()


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
