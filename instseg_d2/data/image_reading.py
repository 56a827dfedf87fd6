"""Images are read, or it is said which one is unreadable and what to do about it."""

from __future__ import annotations

import os

import numpy as np
from detectron2.data import detection_utils

from instseg_d2.data.annotation_checks import Record
from instseg_d2.data.image_guard import image_file_problem
from instseg_d2.errors import DataError
from instseg_d2.image_file import ImageFile, read_image_file


def read_image(record: Record, image_format: str) -> np.ndarray:
    """Read the image of a record, EXIF orientation applied, and compare its size to the record's.

    Sets ``height`` and ``width`` in ``record`` where they are absent.

    Args:
        record: with ``file_name``; ``image_id``, ``height``, ``width`` as far as known.
        image_format: ``"RGB"``, ``"BGR"`` or another that Detectron2's ``read_image`` knows.

    Returns:
        (H, W, C) array, uint8 for RGB and BGR, values 0..255.

    Raises:
        DataError: file missing, truncated or not an image; no pixels; sides that differ from the
            annotated ones.
    """
    label = f"image {record['file_name']} (image id {record.get('image_id', 'unknown')})"
    image = read_any_image(record["file_name"], image_format, label).pixels
    try:
        detection_utils.check_image_size(record, image)
    except detection_utils.SizeMismatchError as error:
        raise DataError(_size_message(label, record, image)) from error
    return image


def read_any_image(
    path: str, image_format: str, label: str, max_pixels: int | None = None
) -> ImageFile:
    """As :func:`.image_file.read_image_file`, with errors that say what to do.

    Args:
        label: of the image, for messages.

    Raises:
        DataError: file missing, truncated or not an image; no pixels.
    """
    if not os.path.exists(path) and "://" not in str(path):
        raise DataError(f"{label} does not exist.")
    if (problem := image_file_problem(path)) is not None:
        raise DataError(f"{label} {problem}")
    try:
        image = read_image_file(path, image_format, max_pixels)
    except Exception as error:  # the image libraries raise errors of many types
        raise DataError(
            f"{label} cannot be read ({type(error).__name__}: {error}). It may be truncated or no "
            "image: replace it or leave it out."
        ) from error
    shape = image.pixels.shape
    if 0 in shape:
        raise DataError(f"{label} has no pixels: its shape is {shape}. Replace or remove it.")
    return image


def _size_message(label: str, record: Record, image: np.ndarray) -> str:
    height, width = image.shape[:2]
    message = (
        f"{label} is {width} x {height} pixels (width x height), but its annotation says "
        f"{record['width']} x {record['height']}. Correct 'width' and 'height', or the image."
    )
    if (height, width) == (record["width"], record["height"]):
        message += (
            " The sides are swapped: the file probably has an EXIF orientation that the tool used "
            "for annotating ignored."
        )
    return message
