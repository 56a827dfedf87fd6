"""The kinds of problems. Their codes stay as they are: people silence them in scripts."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From bad to harmless. An error: training or evaluation fails or is silently wrong. A warning:
something is lost or probably not meant. A note: good to know."""


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        severity: of every problem of this kind.
        meaning: what it is and, where that is not plain, what it leads to.
    """

    severity: Severity
    meaning: str


def _kinds(severity: Severity, meanings: dict[str, str]) -> dict[str, Kind]:
    return {code: Kind(severity, meaning) for code, meaning in meanings.items()}


_ERRORS = {
    # The file as a whole.
    "list-missing": "the file lacks a list (images, annotations or categories), or it is empty",
    "no-objects": "no usable annotation but crowds: nothing can be learned",
    "wrong-type": "a value or entry of another type than COCO's format has",
    "field-missing": "an entry lacks a key that training or evaluation needs",
    "number-not-finite": "a number is infinite, beyond 1e12, or not a number (NaN)",
    "id-not-integer": "an id is no whole number; text and numbers are never equal",
    "duplicate-image-id": "several images have the same id",
    "duplicate-annotation-id": "several annotations have the same id",
    "duplicate-category-id": "several categories have the same id",
    "unknown-image": "an annotation of an image that is not in the list; it is silently dropped",
    "unknown-category": "an annotation of a category that is not in the list",
    # Images.
    "path-leaves-folder": "the file name leads out of the image folder; it was not opened",
    "image-missing": "the image file does not exist",
    "image-unreadable": "the image file is truncated, damaged or no image",
    "image-size-invalid": "width or height in the JSON is no whole number from 1 to 1e6",
    "image-size-mismatch": "the image has another size than the JSON says",
    "image-exif-swapped": "Detectron2 rotates the image as its EXIF orientation says, which swaps "
    "its sides; the JSON has the sides before that",
    "image-deep": "more than 8 bits a channel; Detectron2's reader cuts values above 255 off",
    # Boxes.
    "box-invalid": "the box is not 4 numbers [x, y, width, height]",
    "box-without-area": "the box has no width or height, or a negative one",
    "box-outside-image": "the whole box lies outside the image",
    "box-is-corners": "the box seems to be [x0, y0, x1, y1]; COCO's is [x, y, width, height]",
    "box-off-mask": "box and mask overlap by less than half",
    "coordinates-normalised": "all coordinates lie between 0 and 1; COCO's are in pixels",
    # Masks.
    "mask-missing": "no segmentation: the object cannot be used for masks",
    "segmentation-invalid": "neither polygons nor a run-length code",
    "polygon-invalid": "a polygon is no flat list of an even number of numbers",
    "polygon-too-short": "a polygon has fewer than 3 points",
    "polygon-outside-image": "a whole polygon lies outside the image",
    "rle-invalid": "a run-length code that cannot be read, or lacks parts",
    "rle-wrong-size": "a run-length code for another size than the image's",
    "mask-empty": "the mask has no pixel: training drops it, evaluation counts it as missed",
    "crowd-flag-invalid": "'iscrowd' is not 0 or 1",
    "ignore-flag": "'ignore' is not supported; use 'iscrowd'",
}

_WARNINGS = {
    "duplicate-file-name": "several images have the same file",
    "duplicate-category-name": "several categories have the same name",
    "duplicate-annotation": "the same object twice: same image, category, box and mask",
    "annotation-id-zero": "COCO's evaluation takes detections that match the annotation with id 0 "
    "for unmatched; count from 1",
    "image-exif-unclear": "the image has an EXIF orientation, which Detectron2 applies, and the "
    "sides do not tell if the annotations have it too: look at the picture",
    "box-over-border": "the box reaches beyond the image by more than a pixel",
    "box-loose": "the box is clearly larger or smaller than the mask",
    "area-mismatch": "'area' is not the mask's: evaluation sorts objects by it into small, medium "
    "and large",
    "polygon-over-border": "a polygon reaches beyond the image by more than a pixel",
    "polygon-without-area": "a polygon is a point or a line",
    "polygon-self-crossing": "a polygon's border crosses itself, so that its area is unclear",
}

_NOTES = {
    "class-imbalance": "a category has under a hundredth of the objects of the most frequent one",
    "unused-category": "a category without annotations",
    "image-without-objects": "an image without annotations; fine if nothing is in it",
    "image-exif-rotated": "Detectron2 rotates the image as its EXIF orientation says; the JSON's "
    "sides are those after that",
    "image-frames": "an image of several frames; only the first one is used",
    "image-remote": "the image is not on this machine and was not looked at",
    "crowd-polygons": "a crowd as polygons; COCO's are run-length codes",
    "object-of-two-categories": "the same mask in two categories",
    "near-duplicate": "two objects of a category with nearly the same box and area",
    "polygon-self-touching": "a polygon's border touches or slightly crosses itself",
}

KINDS: dict[str, Kind] = {
    **_kinds("error", _ERRORS),
    **_kinds("warning", _WARNINGS),
    **_kinds("note", _NOTES),
}
"""All kinds by code, the worst first."""
