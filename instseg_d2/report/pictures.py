"""The best and the worst images, with what was found, what was false and what was missed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pycocotools.mask as mask_util
from markupsafe import Markup

from ..data.image_reading import read_image
from ..drawable import Colour
from ..errors import DataError
from ..html_page import picture
from ..rle_masks import segmentation_rle
from ..visualize import draw_coloured
from .matching import FALSE, TRUE, ImageMatches
from .truth import Truth

COLOURS: dict[str, Colour] = {
    "found": (0.0, 0.62, 0.45),
    "false": (0.84, 0.37, 0.0),
    "missed": (0.34, 0.71, 0.91),
}
"""Told apart by colour-blind people too (Okabe and Ito); each label also begins with a sign."""

MEANINGS = {
    "found": "✓ found: a true detection, with its score",
    "false": "✗ false: a detection that is no object of its class",
    "missed": "? missed: an object that no detection found",
}

MAX_SIDE = 640
"""Pixels of the longer side that pictures are drawn with."""

MAX_DRAWN = 60
"""Masks in one picture; more could not be told apart."""


MAX_NAMED = 6
"""Wrong detections and missed objects in a caption."""


@dataclass
class Drawn:
    """Figures for a page, and why others are not there."""

    figures: list[Markup] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Ranking:
    """Keeps the best and the worst images by :meth:`ImageMatches.quality`, and no others.

    Of equal ones those with more objects come first: they say more.
    """

    def __init__(self, limit: int, min_score: float) -> None:
        """
        Args:
            limit: images to draw of either kind; some more are kept, for files that are missing.
            min_score: detections with a lower score (0..1) are left out.
        """
        self._limit, self._kept, self._min_score = limit, 3 * limit, min_score
        self._best: list[tuple[float, int, int, ImageMatches]] = []
        self._worst: list[tuple[float, int, int, ImageMatches]] = []
        self._count = 0

    def add(self, image: ImageMatches) -> None:
        """Look at an image; those with neither objects nor detections are passed over."""
        quality = image.quality(self._min_score)
        if math.isnan(quality):
            return
        self._count += 1
        size = len(image.objects) + image.kept(self._min_score)
        self._best.append((-quality, -size, self._count, image))
        self._worst.append((quality, -size, self._count, image))
        for ranked in (self._best, self._worst):
            if len(ranked) > 2 * self._kept + 50:
                ranked.sort(key=lambda entry: entry[:3])
                del ranked[self._kept :]

    def draw(self, truth: Truth) -> tuple[Drawn, Drawn]:
        """The best and the worst images, best and worst first; no image is in both."""
        best, worst = (
            [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])]
            for ranked in (self._best, self._worst)
        )
        half = self._count // 2
        # Of images of equal quality the same ones may be first in both orders.
        lower = {image.image_id for image in worst[:half]}
        upper = [image for image in best if image.image_id not in lower]
        return (
            _draw(upper, truth, self._limit, self._min_score),
            _draw(worst[:half], truth, self._limit, self._min_score),
        )


def _draw(images: Iterable[ImageMatches], truth: Truth, limit: int, min_score: float) -> Drawn:
    drawn = Drawn()
    for image in images:
        if len(drawn.figures) == limit:
            break
        try:
            drawn.figures.append(draw_outcome(image, truth, min_score))
        except DataError as error:
            drawn.failures.append(str(error))
    return drawn


def draw_outcome(image: ImageMatches, truth: Truth, min_score: float) -> Markup:
    """One image as a figure.

    Raises:
        DataError: the image file is missing, unreadable or of another size.
    """
    entry = truth.images[image.image_id]
    path = truth.file_of(entry)
    if path is None:
        raise DataError(f"image id {image.image_id}: its file is not known")
    record = {
        "file_name": path,
        "image_id": image.image_id,
        "height": entry["height"],
        "width": entry["width"],
    }
    pixels = _shrunk(read_image(record, "RGB"))
    kinds, annotations, labels = _outcomes(image, list(truth.names.values()), min_score)
    masks = _masks(annotations, entry, pixels.shape[:2])
    boxes = np.array([annotation["bbox"] for annotation in annotations], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes *= np.tile(np.array(pixels.shape[1::-1]) / (entry["width"], entry["height"]), 2)
    drawing = draw_coloured(pixels, masks, boxes, labels, [COLOURS[kind] for kind in kinds])
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in COLOURS)
    name = str(entry.get("file_name", image.image_id))
    caption = Markup("<strong>{}</strong><br>quality {:.2f}: {}{}").format(
        name, image.quality(min_score), counts, _wrong_ones(kinds, labels)
    )
    return picture(drawing, f"{name}: {counts}", caption, max_side=MAX_SIDE)


def _wrong_ones(kinds: Sequence[str], labels: Sequence[str]) -> str:
    """In words, since labels that would cover others are not drawn."""
    wrong = [label for kind, label in zip(kinds, labels, strict=True) if kind != "found"]
    more = f", and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
    return f" ({', '.join(wrong[:MAX_NAMED])}{more})" if wrong else ""


def _outcomes(
    image: ImageMatches, names: Sequence[str], min_score: float
) -> tuple[list[str], list[dict], list[str]]:
    """Kinds, annotations or results, and labels of what is to be drawn, the surest first."""
    kinds, entries, labels = [], [], []
    for index in np.flatnonzero(image.missed(min_score)).tolist():
        kinds.append("missed")
        entries.append(image.objects[index])
        labels.append(f"? {names[image.object_classes[index]]}")
    for index in range(image.kept(min_score)):
        outcome = image.outcomes[index]
        if outcome not in (TRUE, FALSE):
            continue
        kinds.append("found" if outcome == TRUE else "false")
        entries.append(image.detections[index])
        sign = "✓" if outcome == TRUE else "✗"
        labels.append(f"{sign} {names[image.classes[index]]} {image.scores[index]:.0%}")
    return kinds[:MAX_DRAWN], entries[:MAX_DRAWN], labels[:MAX_DRAWN]


def _shrunk(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _masks(entries: Sequence[dict], image: dict, drawn_size: tuple[int, int]) -> np.ndarray | None:
    """(N, H, W) bool at the size that is drawn; None if there are boxes only. One after the other,
    since those of a large image would fill the memory."""
    if not all(entry.get("segmentation") for entry in entries):
        return None
    height, width = drawn_size
    masks = np.zeros((len(entries), height, width), bool)
    for mask, entry in zip(masks, entries, strict=True):
        rle = segmentation_rle(entry["segmentation"], image["height"], image["width"])
        full = mask_util.decode(rle)
        mask[:] = cv2.resize(full, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return masks
