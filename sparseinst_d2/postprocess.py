"""From network outputs to ``Instances``: the one path of training's evaluation and of prediction.

Shape shorthand: B images, N predictions, K classes, (h, w) the size of the predicted masks; n of
the N predictions survive. Logits become scores here and nowhere else.

It happens in two steps, so that masks are made for the survivors only: :func:`select` reads the
class scores of an image, :func:`finish` the mask logits of those that it selected.
:func:`postprocess_image` is both, for who has all the masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from .mask_resize import Size, masks_and_boxes, upsample

MAX_PIXELS = 2**20
"""Of mask logits that become probabilities at a time: so many stay in the cache."""


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


@dataclass(frozen=True)
class Selected:
    """The predictions of one image whose class score is high enough.

    Attributes:
        index: (n,) int64, ascending, which of the N predictions.
        scores: (n,) in 0..1, before the mask rescoring.
        classes: (n,) int64.
    """

    index: Tensor
    scores: Tensor
    classes: Tensor


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
    """Mean probability over the pixels above ``threshold`` (at least 0); 0 without such a pixel.

    (n, h, w) probabilities -> (n,).
    """
    inside = F.threshold(mask_probs.flatten(1), threshold, 0.0)
    return inside.sum(1) / (inside.sign().sum(1) + 1e-6)


def is_candidate(scores: Tensor, options: PostprocessOptions) -> Tensor:
    """Which scores, before the mask rescoring, make a prediction worth a mask: (...) -> bool."""
    return scores > options.cls_threshold


def rescore(
    scores: Tensor, mask_scores: Tensor, options: PostprocessOptions
) -> tuple[Tensor, Tensor]:
    """The final scores, and which of the predictions are instances.

    Args:
        scores: (...) of :func:`class_scores`.
        mask_scores: (...) of :func:`maskness`; what is not a number makes no instance.
        options: thresholds.

    Returns:
        scores (...) in 0..1 and whether to keep the prediction, (...) bool.
    """
    final = scores * mask_scores
    return final, is_candidate(scores, options) & (final > options.score_threshold)


def select(pred_logits: Tensor, pred_scores: Tensor, options: PostprocessOptions) -> Selected:
    """The predictions of one image that are worth a mask.

    Args:
        pred_logits: (N, K) class logits.
        pred_scores: (N, 1) IoU logits.
        options: thresholds and limits.
    """
    scores, classes = class_scores(pred_logits, pred_scores)
    index = torch.nonzero(is_candidate(scores, options))[:, 0]
    return Selected(index, scores[index], classes[index])


@torch.no_grad()
def finish(
    selected: Selected,
    mask_logits: Tensor,
    *,
    scale_factor: float = 1.0,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    options: PostprocessOptions,
    more: Mapping[str, Tensor] | None = None,
) -> Instances:
    """The instances of one image, in ascending order of prediction index.

    Args:
        selected: see :func:`select`.
        mask_logits: (n, h, w), of the selected predictions, over the padded input.
        scale_factor: the logits are upsampled bilinearly by this before anything else.
        padded_size: size of the padded input, (height, width) like the two below.
        image_size: size of the image in it, before padding.
        output_size: size that masks and boxes are wanted at.
        options: thresholds and limits.
        more: further fields by name, (n, ...), of the selected predictions.

    Returns:
        ``Instances`` of ``output_size`` with ``pred_boxes`` (tight around the mask; XYXY absolute),
        ``scores`` (final, in 0..1), ``pred_classes`` int64 and ``pred_masks`` (n, H, W) bool, in
        ascending order of the prediction index; all four are there when n is 0, too. After them
        come the fields of ``more``.
    """
    probs, mask_scores = _probabilities(mask_logits, scale_factor, options.mask_threshold)
    scores, keep = rescore(selected.scores, mask_scores, options)
    best = _best(scores, keep, options.max_detections)
    if len(best) < len(probs):
        probs = probs[best]
    masks, boxes = masks_and_boxes(
        probs, padded_size, image_size, output_size, options.mask_threshold
    )
    result = Instances(output_size)
    result.pred_boxes = Boxes(boxes)
    result.scores = scores[best]
    result.pred_classes = selected.classes[best]
    result.pred_masks = masks
    for name, values in (more or {}).items():
        result.set(name, values[best])
    return result


def postprocess_image(
    pred_logits: Tensor,
    pred_scores: Tensor,
    pred_masks: Tensor,
    *,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    options: PostprocessOptions,
) -> Instances:
    """The instances of one image from all its predictions.

    Args:
        pred_logits: (N, K) class logits.
        pred_scores: (N, 1) IoU logits.
        pred_masks: (N, h, w) mask logits over the padded input.
        padded_size, image_size, output_size, options: see :func:`finish`.

    Returns:
        see :func:`finish`.
    """
    selected = select(pred_logits, pred_scores, options)
    return finish(
        selected,
        pred_masks[selected.index],
        padded_size=padded_size,
        image_size=image_size,
        output_size=output_size,
        options=options,
    )


def _probabilities(
    mask_logits: Tensor, scale_factor: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Upsampled probabilities (n, s*h, s*w) float32 and the maskness (n,) of logits (n, h, w)."""
    height, width = (int(length * scale_factor) for length in mask_logits.shape[1:])
    probs = mask_logits.new_empty(len(mask_logits), height, width, dtype=torch.float32)
    scores = mask_logits.new_empty(len(mask_logits), dtype=torch.float32)
    chunk = max(1, MAX_PIXELS // max(height * width, 1))
    for start in range(0, len(mask_logits), chunk):
        part = slice(start, start + chunk)
        torch.sigmoid(upsample(mask_logits[part].float(), scale_factor), out=probs[part])
        scores[part] = maskness(probs[part], threshold)
    return probs, scores


def _best(scores: Tensor, keep: Tensor, limit: int) -> Tensor:
    """Indices, ascending, of the ``limit`` best scores (n,) where ``keep`` (n,) is True."""
    index = torch.nonzero(keep)[:, 0]
    if len(index) > limit:
        index = index[scores[index].topk(limit).indices].sort().values
    return index
