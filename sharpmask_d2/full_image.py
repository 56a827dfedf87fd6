"""Proposals of a whole image (SharpMask paper, section 4; DeepMask paper, section 3.3).

The trunk and the head see the image at several sizes, densely: a score and an encoding for every
window. Only the best windows over all sizes get a mask, coarse or refined, which is pasted into
the image as a run-length code.

Shape shorthand: (h, w) a level, one size of the image; W side of a window; t the trunk's stride;
D length of an encoding; N the most proposals; n windows of one level that are among the N best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from instseg_d2.errors import DataError, NonFiniteError
from instseg_d2.mask_nms import mask_nms
from instseg_d2.rle_masks import RLE, RLEMasks
from instseg_d2.stage_clock import NO_CLOCK, NoClock

from .pasting import paste
from .proposal_options import ProposalOptions
from .pyramid import Size, level_sizes, num_windows, pyramid_level, window_corners
from .rle_encoding import encode_runs
from .selection import Windows, best_of_level, merge
from .window_maps import cut_windows

if TYPE_CHECKING:
    from .deepmask import DeepMask


@dataclass(frozen=True)
class ImageInput:
    """One whole image.

    Attributes:
        pixels: (3, h, w) float32, 0..255, on the model's device.
        output_size: (height, width) that masks and boxes are wanted at.
        name: for messages.
    """

    pixels: Tensor
    output_size: Size
    name: str

    @classmethod
    def read(cls, inputs: dict[str, Any], device: torch.device) -> ImageInput:
        """
        Args:
            inputs: ``image`` (3, h, w) of any dtype; ``height`` and ``width`` of the output, by
                default those of the image; ``file_name`` and ``image_id``, if known.

        Raises:
            DataError: the image has another shape, or no pixels.
        """
        known = [inputs[key] for key in ("file_name", "image_id") if inputs.get(key) is not None]
        name = f"image {known[0]}" if known else "the image"
        image = inputs["image"]
        if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3 or 0 in image.shape:
            kind, shape = type(image).__name__, tuple(getattr(image, "shape", ()))
            raise DataError(
                f"{name}: a tensor of shape (3, height, width) is wanted, got a {kind} of {shape}"
            )
        height, width = image.shape[1:]
        size = int(inputs.get("height", height)), int(inputs.get("width", width))
        if min(size) < 1:
            raise DataError(f"{name}: its 'height' and 'width' are {size}, but must be at least 1")
        return cls(image.to(device).float(), size, name)

    @property
    def size(self) -> Size:
        """(h, w)."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def require_finite(self, values: Tensor, what: str) -> None:
        """
        Raises:
            NonFiniteError: the model has put out numbers that mean nothing.
        """
        if not torch.isfinite(values).all():
            raise NonFiniteError(
                f"{self.name}: the model's {what} are not finite numbers. Its weights are damaged "
                "or training has diverged: see MODEL.WEIGHTS; or half precision is not enough for "
                "this model: run it in float32 (MODEL.INFERENCE.PRECISION, SOLVER.AMP.ENABLED)"
            )


class Found(NamedTuple):
    """The best windows of an image, and what their masks are made of.

    Attributes:
        windows: at most N, best first.
        maps: by level and stride, see :meth:`DeepMask.window_maps`; of levels without any of the
            best windows they may be absent.
    """

    windows: Windows
    maps: dict[int, dict[int, Tensor]]


def propose(model: DeepMask, inputs: dict[str, Any], clock: NoClock = NO_CLOCK) -> Instances:
    """The proposals of one image.

    Args:
        model: in eval mode.
        inputs: see :meth:`ImageInput.read`.
        clock: gets the stages ``pyramid``, ``trunk``, ``score`` (all of the head but the masks),
            ``selection``, ``skips``, ``masks`` (the head's last layer, or the refinement),
            ``pasting`` and ``encoding`` (with boxes and the suppression of duplicates).

    Returns:
        see :meth:`DeepMask.predict_images`.

    Raises:
        DataError: see :meth:`ImageInput.read`.
        NonFiniteError: see :meth:`ImageInput.require_finite`.
    """
    options = model.proposals
    with clock.stage("pyramid"):
        image = ImageInput.read(inputs, model.device)
        sizes = level_sizes(image.size, options.scales_of(*image.size))
    found = find_windows(model, image, sizes, clock)
    rles: list[RLE | None] = [None] * len(found.windows)
    for level, size in enumerate(sizes):
        for ranks, logits, corners in masks_of_level(model, image, found, level, clock):
            with clock.stage("pasting"):
                threshold = logit(options.mask_threshold)
                runs = paste(logits, corners, size, image.output_size, threshold)
            with clock.stage("encoding"):
                codes = encode_runs(runs, len(ranks), image.output_size)
                for rank, code in zip(ranks.tolist(), codes, strict=True):
                    rles[rank] = code
    with clock.stage("encoding"):
        masks = RLEMasks([rle for rle in rles if rle is not None], image.output_size)
        return make_instances(masks, found.windows.scores, options)


def find_windows(
    model: DeepMask, image: ImageInput, sizes: Sequence[Size], clock: NoClock = NO_CLOCK
) -> Found:
    """Score the windows of all levels, and keep what the masks of the best ones need.

    What masks share is computed level by level, so that no two levels' features are in memory
    together, but not where no window of a level is among the best so far. Most of the cost is in
    the last levels, of which that is known nearly for certain.

    Args:
        sizes: (h, w) of the levels, from the smallest to the largest.

    Raises:
        NonFiniteError: scores that are not finite.
    """
    options = model.proposals
    least = logit(options.score_threshold)
    best: Windows | None = None
    maps = {}
    for level, size in enumerate(sizes):
        with clock.stage("pyramid"):
            padded = pyramid_level(image.pixels, size, model.window_size, model.stride)
        with clock.stage("trunk"):
            features = model.backbone(model.normalise(padded)[None])
        with clock.stage("score"):
            output = model.head(features[model.feature])
        with clock.stage("selection"):
            rows, columns = num_windows(size, model.stride)
            image.require_finite(output.score_logits[..., :rows, :columns], "scores")
            new = best_of_level(output, (rows, columns), level, options.num, least)
            best = new if best is None else merge(best, new, options.num)
            wanted = bool((best.levels == level).any())
        if wanted:
            with clock.stage("skips"):
                maps[level] = model.window_maps(features)
        del features, output  # the next, larger level needs the room
    assert best is not None, "an image has at least one level"
    return Found(best, maps)


def masks_of_level(
    model: DeepMask, image: ImageInput, found: Found, level: int, clock: NoClock = NO_CLOCK
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Masks of the best windows of one level, so many at a time as the options say.

    Yields:
        ranks (m,) among all best windows, mask logits (m, W, W) float32, and corners (m, 2): y and
        x in pixels of the level.

    Raises:
        NonFiniteError: masks that are not finite.
    """
    window, stride = model.window_size, model.stride
    ranks = (found.windows.levels == level).nonzero()[:, 0]
    for part in ranks.split(model.proposals.batch):
        if not len(part):  # of nothing there is one empty part
            return
        with clock.stage("masks"):
            chosen = found.windows.take(part)
            maps = [
                cut_windows(values, chosen.cells, window // fine, stride // fine)
                for fine, values in found.maps[level].items()
            ]
            logits = model.window_masks(chosen.encodings, maps).float()
            image.require_finite(logits, "masks")
        yield part, logits, window_corners(chosen.cells, window, stride)


def make_instances(masks: RLEMasks, scores: Tensor, options: ProposalOptions) -> Instances:
    """The proposals that are left without empty masks and, if wanted, without near duplicates.

    Args:
        masks: n, best first.
        scores: (n,) logits.
    """
    kept = kept_masks(masks, options)
    result = Instances(masks.image_size)
    result.pred_masks = masks[kept]
    result.proposal_boxes = result.pred_masks.bounding_boxes().to(scores.device)
    result.objectness_logits = scores[kept.to(scores.device)]
    return result


def kept_masks(masks: RLEMasks, options: ProposalOptions) -> Tensor:
    """Indices, ascending, of masks (n, best first) that are neither empty nor near duplicates."""
    filled = masks.bounding_boxes().nonempty().nonzero()[:, 0]
    return filled[mask_nms(masks[filled], options.nms_threshold)]


def logit(probability: float) -> float:
    """The logit of a probability below 1; that of 0 is below all others."""
    return math.log(probability / (1 - probability)) if probability else -math.inf
