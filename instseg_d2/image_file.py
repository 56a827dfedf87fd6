"""Image files of all kinds as 8-bit arrays, those of huge images in bounded memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""


class ImageFile(NamedTuple):
    """What was read.

    Attributes:
        pixels: (h, w, C), upright.
        full_size: of the upright image in the file; (h, w) unless it was reduced.
    """

    pixels: np.ndarray
    full_size: Size


def read_image_file(path: str, image_format: str, max_pixels: int | None = None) -> ImageFile:
    """As Detectron2's ``read_image``: upright by the EXIF orientation, transparency left out.

    Two things are beyond it. Images of more than 8 bits are scaled down to 8, where clipping would
    leave most of them white. And images may be reduced as they are read.

    Args:
        path: of a file, also a remote one.
        image_format: "RGB", "BGR" or another that Detectron2's ``read_image`` knows.
        max_pixels: images with more pixels are reduced to no more, the sides in proportion; a JPEG
            file is not even decoded at more than four times as many. None: never.

    Raises:
        Exception: of many types, from Pillow: the file is damaged or of an unknown kind.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as opened:
        width, height = opened.size
        size = reduced_size((height, width), max_pixels)
        is_reduced = size != (height, width)
        if is_reduced:
            opened.draft(None, size[::-1])  # no effect but on JPEG files
        opened.load()  # which turns TIFF files upright, and only then is their tag gone
        image = detection_utils._apply_exif_orientation(opened)
        is_turned = image is not opened and opened.getexif().get(0x0112, 1) >= 5
        if is_turned:
            height, width, size = width, height, size[::-1]
        image = in_8_bits(image)
        if is_reduced:
            if image.mode not in ("L", "RGB", "CMYK"):  # a palette's indices have no mean
                image = image.convert("RGB")
            image = image.resize(size[::-1], Image.Resampling.BOX)
        pixels = detection_utils.convert_PIL_to_numpy(image, image_format)
    return ImageFile(pixels, (height, width))


def reduced_size(size: Size, max_pixels: int | None) -> Size:
    """``size`` if it has no more than ``max_pixels``, else the largest of its shape that has.

    No side becomes shorter than a pixel.
    """
    height, width = size
    if max_pixels is None or height * width <= max_pixels:
        return size
    factor = math.sqrt(max_pixels / (height * width))
    shorter = max(1, int(min(size) * factor))
    longer = min(max(1, int(max(size) * factor)), max_pixels)
    if shorter == 1:
        longer = min(max(size), max_pixels)
    return (shorter, longer) if height <= width else (longer, shorter)


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 or 32 bits, or of floating-point numbers, in 8 bits; others as they are.

    Whole numbers lose as many bits as the greatest of the image has more than 8, so that images of
    10, 12 and 14 bits are not left black. Floating-point numbers are stretched from the least to
    the greatest.
    """
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        stretched = (values - values.min()) * (255 / max(np.ptp(values), 1e-12))
        return Image.fromarray(stretched.round().astype(np.uint8))
    if image.mode == "I" or image.mode.startswith("I;16"):
        whole = np.maximum(np.asarray(image).astype(np.int64), 0)
        bits = int(whole.max(initial=0)).bit_length()
        return Image.fromarray((whole >> max(0, bits - 8)).astype(np.uint8))
    return image
