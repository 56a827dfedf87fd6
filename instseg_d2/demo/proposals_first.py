"""Detectors that read precomputed proposals (Fast R-CNN) on images that have none yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from ..batch_predictor import BatchPredictor
from ..modeling import build_inference_model
from ..preprocessing import ImagePreprocessor


class _KeepingOriginal:
    """A preprocessor whose answer has the image as it came, too: ``original`` (H, W, 3) BGR."""

    def __init__(self, preprocess: Any) -> None:
        self._preprocess = preprocess

    def __call__(self, image: np.ndarray, name: str = "an image") -> dict[str, Any]:
        return {**self._preprocess(image, name), "original": image}


class ProposalsFirst(nn.Module):
    """Another model's proposals of each image, then the detector on them."""

    def __init__(
        self, proposer: nn.Module, preprocess: ImagePreprocessor, detector: nn.Module, top: int
    ) -> None:
        """
        Args:
            proposer: answers with ``proposals``.
            preprocess: makes its input.
            detector: reads ``proposals`` in the frame of its own input.
            top: it gets the best so many.
        """
        super().__init__()
        self.proposer, self.detector = proposer, detector
        self.preprocess, self.top = preprocess, top

    @property
    def backbone(self) -> nn.Module:
        """The detector's, which says what its input is padded to."""
        backbone: nn.Module = self.detector.backbone  # type: ignore[assignment]
        return backbone

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Args:
            batched_inputs: of the detector, with ``original`` (H, W, 3) uint8 BGR.

        Returns:
            the detector's answer.
        """
        own = [self.preprocess(inputs["original"]) for inputs in batched_inputs]
        answers: list[dict[str, Instances]] = self.proposer(own)
        answer: list[dict[str, Any]] = self.detector(
            [
                {**inputs, "proposals": self._in_frame_of(inputs, answer["proposals"])}
                for inputs, answer in zip(batched_inputs, answers, strict=True)
            ]
        )
        return answer

    def _in_frame_of(self, inputs: dict[str, Any], found: Instances) -> Instances:
        """Boxes and scores in pixels of the detector's input, as Detectron2 reads them of files."""
        height, width = inputs["image"].shape[-2:]
        boxes = Boxes(found.proposal_boxes.tensor[: self.top].clone())
        boxes.scale(width / found.image_size[1], height / found.image_size[0])
        boxes.clip((height, width))
        filled = boxes.nonempty()
        result = Instances((height, width))
        result.proposal_boxes = boxes[filled]
        result.objectness_logits = found.objectness_logits[: self.top][filled]
        return result


def put_proposals_first(predictor: BatchPredictor, cfg: CfgNode, top: int) -> None:
    """Let a predictor's model read the proposals of another, in place.

    Args:
        predictor: its model reads ``proposals``.
        cfg: of the model that makes them, with ``MODEL.WEIGHTS``.
        top: of each image the best so many are read.

    Raises:
        UserError: see :func:`.modeling.build_inference_model`.
    """
    proposer = build_inference_model(cfg)
    preprocess = ImagePreprocessor.from_config(cfg)
    predictor.model = ProposalsFirst(proposer, preprocess, predictor.model, top)
    predictor.preprocess = _KeepingOriginal(predictor.preprocess)
