"""Pictures of patches with the outlines of their true and predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode

from instseg_d2.engine import Trainer
from instseg_d2.errors import ConfigError
from instseg_d2.modeling import build_trained_model
from instseg_d2.picture_grid import picture_grid

from .patch_evaluation import mask_iou, resized_logits

Colour = tuple[int, int, int]

TRUTH: Colour = (60, 220, 60)
PREDICTION: Colour = (255, 60, 60)
#: Keys of a model's answer, in the order of their columns.
COLUMNS = ("coarse_logits", "mask_logits")
#: Pixels of the picture per pixel of the patch.
FACTOR = 3


def outlined(patch: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    """The patch, enlarged, with the outline of a mask of its window.

    Args:
        patch: (P, P, 3) uint8 RGB.
        mask: (W, W) bool, W <= P; the window lies in the middle of the patch.
    """
    picture = cv2.resize(patch, None, fx=FACTOR, fy=FACTOR, interpolation=cv2.INTER_CUBIC)
    margin = (len(patch) - len(mask)) // 2
    padded = np.pad(mask.astype(np.uint8), margin)
    whole = cv2.resize(padded, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(whole, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, contours, -1, colour, thickness=2, lineType=cv2.LINE_AA)


def draw_patches(
    samples: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, torch.Tensor]],
    input_format: str = "RGB",
) -> np.ndarray:
    """A grid: patch, true mask, and the predicted masks with their IoU, one row a patch.

    Args:
        samples: of the kind "mask", as the test mapper makes them.
        answers: of the model; those of SharpMask have a coarse mask as well.
        input_format: order of the channels of ``image``.

    Returns:
        uint8 RGB.

    Raises:
        ValueError: no samples.
    """
    keys = [key for key in COLUMNS if answers and key in answers[0]]
    rows = []
    for sample, answer in zip(samples, answers, strict=True):
        channels = sample["image"].to(torch.uint8)
        if input_format == "BGR":
            channels = channels.flip(0)
        patch = np.ascontiguousarray(channels.permute(1, 2, 0).numpy())
        target = sample["gt_mask"]
        row = [
            cv2.resize(patch, None, fx=FACTOR, fy=FACTOR, interpolation=cv2.INTER_CUBIC),
            outlined(patch, target.numpy(), TRUTH),
        ]
        for key in keys:
            logits = resized_logits(answer[key].cpu(), target.shape)
            picture = outlined(patch, (logits > 0).numpy(), PREDICTION)
            row.append(_labelled(picture, f"IoU {mask_iou(logits, target):.2f}"))
        rows.append(row)
    titles = ("coarse", "sharp") if len(keys) == 2 else ("mask",)
    return picture_grid(rows, ("patch", "truth", *titles), cell=240)


def draw_held_out_patches(cfg: CfgNode, count: int) -> np.ndarray:
    """The first of the held-out patches that masks are judged by, as :func:`draw_patches` has them.

    Args:
        cfg: of a trained model; its only test set is registered.
        count: how many patches, at least 1; fewer if the data set's evaluation has fewer.

    Returns:
        uint8 RGB.

    Raises:
        UserError: of the config, the data or the weights.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SHARP_MASK.EVALUATION = "patches"
    loader = Trainer.build_test_loader(cfg, only_test_set(cfg))
    model = build_trained_model(cfg)
    samples: list[dict[str, Any]] = []
    answers: list[dict[str, torch.Tensor]] = []
    for batch in loader:
        chosen = [sample for sample in batch if sample["kind"] == "mask"][: count - len(samples)]
        if chosen:
            with torch.no_grad():
                answers += model(chosen)
            samples += chosen
        if len(samples) >= count:
            break
    return draw_patches(samples, answers, cfg.INPUT.FORMAT)


def only_test_set(cfg: CfgNode) -> str:
    """The name in ``DATASETS.TEST``.

    Raises:
        ConfigError: none or several.
    """
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(f"DATASETS.TEST must name one data set here, not {cfg.DATASETS.TEST}")
    return str(cfg.DATASETS.TEST[0])


def _labelled(picture: np.ndarray, text: str) -> np.ndarray:
    scale = len(picture) / 400
    place = (round(10 * scale), round(len(picture) - 12 * scale))
    for colour, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):  # legible on any ground
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
        )
    return picture
