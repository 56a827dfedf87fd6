"""Cropping a view out of an image or a mask, at a cost that depends on the view alone.

Coordinates as in :mod:`sharpmask_d2.patch_sampling`.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from instseg_d2.errors import DataError

from .patch_polygons import clip_polygon
from .patch_sampling import Window
from .rle import decode_part

#: What images consist of beyond their borders: the middle of 0..255.
GREY = 128

IntBox = tuple[int, int, int, int]
"""(left, top, right, bottom), whole pixels."""


def crop_image(image: np.ndarray, window: Window, size: int) -> np.ndarray:
    """A view of an image, grey beyond the borders.

    Linear interpolation where it enlarges; where it shrinks, every pixel is a mean over all that
    it covers. Along the borders image and grey are mixed likewise.

    Args:
        image: (H, W, 3) uint8.
        size: side of the view in pixels.

    Returns:
        (3, size, size) uint8.
    """
    return np.ascontiguousarray(_resample(image, window, size, GREY).transpose(2, 0, 1))


def crop_mask(
    segmentation: list[Any] | dict[str, Any],
    image_size: tuple[int, int],
    window: Window,
    size: int,
) -> np.ndarray:
    """A view of a mask, empty beyond the borders, wherever its polygons go.

    Polygons are drawn in the view itself, so that small objects have smooth outlines in large
    views. Of run-length codes the pixels needed are decoded and resampled as images are.

    Args:
        segmentation: polygons, or a run-length code, compressed or not.
        image_size: (height, width) of the image.
        size: side of the view in pixels.

    Returns:
        (size, size) bool.

    Raises:
        DataError: the segmentation cannot be read.
    """
    if isinstance(segmentation, dict):
        mask = _crop_rle(segmentation, image_size, window, size)
    else:
        mask = _crop_polygons(segmentation, image_size, window, size)
    return np.ascontiguousarray(mask)


def _crop_rle(
    rle: dict[str, Any], image_size: tuple[int, int], window: Window, size: int
) -> np.ndarray:
    plan = _plan(image_size, window, size)
    if plan is None:
        return np.zeros((size, size), bool)
    part = decode_part(rle, image_size, plan.inside(image_size))
    left, top, _, _ = plan.inside(image_size)
    return _resample(part * np.uint8(255), window.in_crop(left, top), size, 0) > 127


def _crop_polygons(
    polygons: list[Any], image_size: tuple[int, int], window: Window, size: int
) -> np.ndarray:
    left, top, _, _ = window.box(size)
    drawn = []
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
            # pycocotools would end the process.
            raise DataError("a polygon of the mask is not a list of x, y, x, y, ...")
        corners = clip_polygon(points.reshape(-1, 2), image_size)
        if len(corners) >= 3:
            drawn.append(((corners - (left, top)) * window.scale).reshape(-1).tolist())
    if not drawn:
        return np.zeros((size, size), bool)
    parts = mask_util.frPyObjects(drawn, size, size)
    mask = mask_util.decode(mask_util.merge(parts)).astype(bool)
    return mask[:, ::-1] if window.flip else mask


@dataclass(frozen=True)
class _Plan:
    """How an unmirrored view is made.

    Attributes:
        target: the pixels of the view that touch the image, (left, top, right, bottom).
        source: what these cover of the image, or up to a pixel of the view beyond its borders.
        read: the pixels that the interpolation reads, some of them beyond the borders.
    """

    target: IntBox
    source: tuple[float, float, float, float]
    read: IntBox

    def inside(self, shape: tuple[int, ...]) -> IntBox:
        """The part of ``read`` that is in the image of this (height, width); never empty."""
        left, top, right, bottom = self.read
        return max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])


def _plan(shape: tuple[int, ...], window: Window, size: int) -> _Plan | None:
    """None for a view that lies beyond the borders of the image of this (height, width)."""
    scale = window.scale
    origin_x, origin_y, _, _ = window.box(size)
    left = max(math.floor(-origin_x * scale), 0)
    top = max(math.floor(-origin_y * scale), 0)
    right = min(math.ceil((shape[1] - origin_x) * scale), size)
    bottom = min(math.ceil((shape[0] - origin_y) * scale), size)
    if left >= right or top >= bottom:
        return None
    source = (
        origin_x + left / scale,
        origin_y + top / scale,
        origin_x + right / scale,
        origin_y + bottom / scale,
    )
    reach = 2 * max(1.0, 1 / scale)  # the triangle, and the means that it is taken over
    read = (
        math.floor(source[0] - reach),
        math.floor(source[1] - reach),
        math.ceil(source[2] + reach),
        math.ceil(source[3] + reach),
    )
    return _Plan((left, top, right, bottom), source, read)


def _resample(pixels: np.ndarray, window: Window, size: int, fill: int) -> np.ndarray:
    """A view, (size, size[, 3]), of uint8 pixels (H, W[, 3])."""
    plan = _plan(pixels.shape, window, size)
    if plan is None:
        return np.full((size, size, *pixels.shape[2:]), fill, np.uint8)
    resample = _enlarge if window.scale >= 1 else _shrink
    view = resample(pixels, plan, window, size, fill)
    return view[:, ::-1] if window.flip else view


def _enlarge(pixels: np.ndarray, plan: _Plan, window: Window, size: int, fill: int) -> np.ndarray:
    """The unmirrored view by linear interpolation."""
    left, top, right, bottom = plan.inside(pixels.shape)
    origin_x, origin_y, _, _ = window.in_crop(left, top).box(size)
    # From pixels of the view to those of the image; OpenCV counts from the pixels' centres.
    step = 1 / window.scale
    matrix = np.array([[step, 0, origin_x + step / 2 - 0.5], [0, step, origin_y + step / 2 - 0.5]])
    return cv2.warpAffine(
        np.ascontiguousarray(pixels[top:bottom, left:right]),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 3,
    )


def _shrink(pixels: np.ndarray, plan: _Plan, window: Window, size: int, fill: int) -> np.ndarray:
    """The unmirrored view by means over what each pixel covers.

    OpenCV takes means only of boxes that start at whole pixels; Pillow of any.
    """
    view = np.full((size, size, *pixels.shape[2:]), fill, np.uint8)
    left, top, right, bottom = plan.target
    from_x, from_y, _, _ = plan.read
    box_left, box_top, box_right, box_bottom = plan.source
    resized = Image.fromarray(_read_pixels(pixels, plan, fill)).resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR,
        (box_left - from_x, box_top - from_y, box_right - from_x, box_bottom - from_y),
        reducing_gap=2.0,  # a large reduction starts with one by a whole factor: faster
    )
    view[top:bottom, left:right] = np.asarray(resized)
    return view


def _read_pixels(pixels: np.ndarray, plan: _Plan, fill: int) -> np.ndarray:
    """The pixels of ``plan.read``; ``fill`` beyond the borders."""
    left, top, right, bottom = plan.inside(pixels.shape)
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    before_x, before_y = left - plan.read[0], top - plan.read[1]
    after_x, after_y = plan.read[2] - right, plan.read[3] - bottom
    if before_x or before_y or after_x or after_y:
        part = cv2.copyMakeBorder(
            part, before_y, after_y, before_x, after_x, cv2.BORDER_CONSTANT, value=(fill,) * 3
        )
    return part
