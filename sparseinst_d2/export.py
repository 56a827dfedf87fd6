"""SparseInst as one graph, from pixels to masks: what ``tools/export.py`` writes.

Shape shorthand: B images, (H, W) their size, N predictions, K of them in the answer, (h, w) the
size of the predicted masks.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.export.settings import ExportSettings
from instseg_d2.layers.grid_average import replace_adaptive_pooling

from .decoder import mask_logits
from .mask_resize import boxes_from_masks, upsample
from .postprocess import PostprocessOptions, class_scores, maskness, rescore

PARTS = ("backbone", "encoder", "decoder")


class SparseInstGraph(nn.Module):
    """A SparseInst without lists or sizes that depend on values, for exporters.

    The network is the model's own, the scores are those of :mod:`.postprocess`.
    """

    def __init__(
        self, model: Any, options: PostprocessOptions, top_k: int, dtype: torch.dtype, is_bgr: bool
    ) -> None:
        """
        Args:
            model: a :class:`.sparseinst.SparseInst` prepared for inference; taken over.
            options: thresholds; ``max_detections`` is not read.
            top_k: K.
            dtype: of the network.
            is_bgr: the model reads BGR; the graph's input is RGB all the same.
        """
        super().__init__()
        self.model = model
        self.options = options
        self.top_k = top_k
        self.dtype = dtype
        self.is_bgr = is_bgr

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (B, H, W, 3) uint8 RGB, of the size that the network is to see; no side below
                33. Normalising and padding happen here.

        Returns:
            * boxes (B, K, 4) float32: XYXY in pixels of the input, right and bottom exclusive;
            * scores (B, K) float32 in 0..1, descending, rescored by the masks; 0 beyond the count;
            * labels (B, K) int64;
            * masks (B, K, H, W) bool;
            * counts (B,) int64: how many of the K are instances; the others mean nothing.
        """
        height, width = images.shape[1:3]
        padded = self._pad(images)
        size = padded.shape[-2:]
        outputs = self.model.network(padded.to(self.dtype))
        logits, iou_logits, kernels, features = (output.float() for output in outputs)
        scores, labels = class_scores(logits, iou_logits)
        probs = self._probabilities(kernels, features)
        mask_scores = maskness(probs.flatten(0, 1), self.options.mask_threshold)
        mask_scores = mask_scores.unflatten(0, (-1, scores.shape[1]))
        scores, keep = rescore(scores, mask_scores, self.options)
        best = torch.where(keep, scores, 0.0).topk(self.top_k, dim=1)
        labels = labels.gather(1, best.indices)
        index = best.indices[:, :, None, None].expand(-1, -1, *probs.shape[-2:])
        probs = probs.gather(1, index)
        probs = F.interpolate(probs, size=size, mode="bilinear", align_corners=False)
        masks = _cropped(probs > self.options.mask_threshold, height, width)
        boxes = boxes_from_masks(masks.flatten(0, 1)).unflatten(0, (-1, self.top_k))
        return boxes, best.values, labels, masks, (best.values > 0).sum(dim=1)

    def _pad(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) -> (B, 3, H', W') float32, normalised, then padded with zeros."""
        pixels = images.permute(0, 3, 1, 2).float()
        if self.is_bgr:
            pixels = pixels.flip(1)
        pixels = (pixels - self.model.pixel_mean) / self.model.pixel_std
        step = self.model.size_divisibility
        height, width = pixels.shape[-2:]
        right = (width + step - 1) // step * step - width
        bottom = (height + step - 1) // step * step - height
        return F.pad(pixels, (0, right, 0, bottom))

    def _probabilities(self, kernels: Tensor, features: Tensor) -> Tensor:
        """(B, N, D) and (B, D, h', w') -> (B, N, h, w)."""
        logits = mask_logits(kernels, features)
        upsampled = upsample(logits.flatten(0, 1), self.model.decoder.scale_factor)
        return upsampled.sigmoid().unflatten(0, (-1, kernels.shape[1]))


def _cropped(masks: Tensor, height: int, width: int) -> Tensor:
    """(B, K, H', W') -> (B, K, H, W), copied: were it a view, ``torch.export`` would hold on to
    whether the example had padding, which decides if a view is contiguous."""
    rows, columns = (torch.arange(length, device=masks.device) for length in (height, width))
    return masks.index_select(2, rows).index_select(3, columns)


def build_export(model: nn.Module, settings: ExportSettings) -> SparseInstGraph:
    """The graph of a SparseInst, which is not changed.

    Args:
        model: prepared for inference (:func:`instseg_d2.inference.prepare_for_inference`).
        settings: what is wanted.
    """
    net: Any = copy.deepcopy(model)
    options: PostprocessOptions = net.postprocess_options
    if settings.score_threshold is not None:
        options = replace(options, score_threshold=settings.score_threshold)
    num_masks = net.decoder.inst_branch.num_masks
    top_k = min(settings.top_k or num_masks, num_masks, options.max_detections)
    dtype = torch.float16 if settings.precision == "float16" else torch.float32
    for name in PARTS:
        part = net.get_submodule(name).to(dtype)
        replace_adaptive_pooling(part)
    return SparseInstGraph(net, options, top_k, dtype, settings.is_bgr).eval()
