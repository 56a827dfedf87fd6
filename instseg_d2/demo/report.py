"""What the demo is to write, and what it says that it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from torch import nn

from .results import IMAGES_FILE, RESULTS_FILE

OVERLAYS = "overlays"
"""The folder of images and videos with detections drawn on them."""


@dataclass(frozen=True)
class Seen:
    """An image that was predicted, for a picture of how the model came to its answer.

    Attributes:
        model, inputs: the model, and its input, for an output of the size of ``image``.
        image: uint8 RGB (H, W, 3).
        metadata: gives the class names; or None.
        select: a model's answer -> the detections that the person wants to see.
    """

    model: nn.Module
    inputs: dict[str, Any]
    image: np.ndarray
    metadata: Metadata | None
    select: Callable[[dict[str, Any]], Instances]


Explain = Callable[[Seen], np.ndarray]
"""Makes that picture, uint8 RGB."""


@dataclass(frozen=True)
class Output:
    """What is written and where.

    Attributes:
        folder: of everything.
        overlays: draw detections on images and videos.
        json: write the files of :func:`.write_result_files`.
        suffix: of pictures, ".jpg" or ".png".
        codec: of videos, see :data:`.video.CODECS`; None for the first that works.
        explanations: name of the folder of pictures that ``explain`` makes.
        explain: None: none are made.
    """

    folder: Path
    overlays: bool = True
    json: bool = False
    suffix: str = ".jpg"
    codec: str | None = None
    explanations: str = "explanations"
    explain: Explain | None = None

    def folders(self) -> list[Path]:
        """Those that only results are in."""
        return [self.folder / OVERLAYS, self.folder / self.explanations]


@dataclass
class Report:
    """What was done.

    Attributes:
        images: images and frames that were predicted.
        before: that an earlier run, which did not end, had finished.
        detections: drawn or written, of all images.
        empty: images without any.
        pictures, videos, explanations: files written.
        replaced: of these, how many took the place of an older file.
        reduced: images that were too large to be predicted at their own size.
        problems: a line for each input that could not be used.
        seconds: from the first image to the last file.
        model_seconds, model_images: of the model alone, without its first, slow run if there were
            more.
    """

    images: int = 0
    before: int = 0
    detections: int = 0
    empty: int = 0
    pictures: int = 0
    videos: list[Path] = field(default_factory=list)
    explanations: int = 0
    replaced: int = 0
    reduced: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    model_seconds: float = 0.0
    model_images: int = 0


def summary(report: Report, output: Output) -> str:
    """What was done, for people."""
    lines = []
    if report.before:
        lines.append(
            f"{report.before} images and frames were finished by an earlier run that did not end"
        )
    if report.images:
        pace = report.images / max(report.seconds, 1e-9)
        lines.append(
            f"{report.images} images, {report.detections} detections"
            + (f", {report.empty} images without any" if report.empty else "")
        )
        speed = f"{pace:.1f} images a second with reading, drawing and writing"
        if report.model_seconds:
            alone = report.model_images / report.model_seconds
            speed += f"; {alone:.1f} by the model alone"
        lines.append(speed)
    if report.pictures:
        lines.append(f"Pictures: {report.pictures} in {output.folder / OVERLAYS}")
    lines += [f"Video: {path}" for path in report.videos]
    if output.json:
        lines.append(f"Results in COCO's format: {output.folder / RESULTS_FILE}, {IMAGES_FILE}")
    if report.explanations:
        folder = output.folder / output.explanations
        lines.append(f"{output.explanations}: {report.explanations} in {folder}")
    if report.replaced:
        lines.append(f"{report.replaced} of these files took the place of older ones")
    if report.reduced:
        lines.append(
            f"{report.reduced} images were reduced to be predicted and drawn (--max-pixels); the "
            "JSON results are at their full size"
        )
    return "\n".join(lines)
