"""Pictures for people: instances drawn on an image.

All images are RGB, uint8, (H, W, 3). Nothing here uses the state of ``matplotlib.pyplot`` or a
random generator: the same input always gives the same picture.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.transforms import Bbox

from .drawable import Annotation, Colour, Drawable
from .mask_extent import MaskExtent

MIN_DRAWN_SIDE = 320
"""Images with a shorter short side (pixels) are enlarged, so that labels stay readable."""

MAX_ENLARGED_PIXELS = 2**22
"""No image is enlarged beyond this, however narrow it is."""

FILL_OPACITY = 0.45


def draw_instances(
    image: np.ndarray,
    instances: Instances | Sequence[Annotation],
    metadata: Metadata | None = None,
    *,
    min_score: float = 0.3,
) -> np.ndarray:
    """Draw masks and labels; boxes only where there are no masks.

    Args:
        image: uint8 RGB (H, W, 3).
        instances: predictions (with ``pred_masks`` (N, H, W) and/or ``pred_boxes``, and
            ``pred_classes`` and ``scores`` if known), or ground truth: the ``annotations`` of a
            record in Detectron2's format, before any augmentation.
        metadata: gives the class names, ``thing_classes``. Without them labels are class numbers.
        min_score: predictions with a lower score (0..1) are left out.

    Returns:
        uint8 RGB of the size of ``image``, or a whole multiple of it if that is small.

    Raises:
        ValueError: image or masks have another shape or type than said here.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    names = metadata.get("thing_classes") if metadata is not None else None
    if isinstance(instances, Instances):
        drawable = Drawable.of_predictions(instances, names, min_score)
    else:
        drawable = Drawable.of_annotations(instances, names, height, width)
    return _draw_readably(image, drawable)


def draw_coloured(
    image: np.ndarray,
    masks: np.ndarray | None,
    boxes: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[Colour],
) -> np.ndarray:
    """Draw masks, or boxes where there are none, in given colours, with labels.

    Args:
        image: uint8 RGB (H, W, 3).
        masks: (N, H, W) bool, or None for boxes.
        boxes: (N, 4) XYXY in pixels.
        labels: N texts.
        colours: N.

    Returns:
        as :func:`draw_instances`.

    Raises:
        ValueError: masks of another size.
    """
    return _draw_readably(image, Drawable(boxes, masks, list(labels), list(colours)))


def _draw_readably(image: np.ndarray, drawable: Drawable) -> np.ndarray:
    """Draw on a small image after enlarging it."""
    height, width = image.shape[:2]
    if drawable.masks is not None and drawable.masks.shape[1:] != (height, width):
        raise ValueError(f"masks {drawable.masks.shape[1:]} on an image {(height, width)}")
    factor = math.ceil(MIN_DRAWN_SIDE / min(height, width))
    factor = min(factor, max(1, int(math.sqrt(MAX_ENLARGED_PIXELS / (height * width)))))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        drawable = drawable.enlarged(factor)
    return _draw(image, drawable)


def _draw(image: np.ndarray, drawable: Drawable) -> np.ndarray:
    """Fill and outline the masks (holes stay open) or outline the boxes, then label them."""
    colours = drawable.colours or [_colour(index) for index in range(len(drawable.labels))]
    extents = [MaskExtent.of(mask) for mask in drawable.masks] if drawable.masks is not None else []
    order = np.argsort(-_areas(drawable, extents), kind="stable")  # small on top of large ones
    picture = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 300))
    for index in order:
        colour = [255 * part for part in colours[index]]
        if drawable.masks is None:
            x0, y0, x1, y1 = drawable.boxes[index].round().astype(int).tolist()
            cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thickness)
            continue
        mask = drawable.masks[index]
        _fill(picture, mask, extents[index].box, colour)
        # One line for each straight run, not for each pixel: half of the time, the same path.
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, outlines, -1, colour, thickness, cv2.LINE_AA)
    return _label(picture, drawable, extents, colours, order)


def _fill(
    picture: np.ndarray, mask: np.ndarray, box: tuple[slice, slice], colour: Sequence[float]
) -> None:
    """Tint what is inside a mask, in place; no more than the mask's box is looked at."""
    part = picture[box]
    if not part.size:
        return
    values = np.arange(256)[:, None]
    table = ((1 - FILL_OPACITY) * values + FILL_OPACITY * np.array(colour)).astype(np.uint8)
    tinted = cv2.LUT(np.ascontiguousarray(part), table[None])
    np.copyto(part, tinted, where=mask[box][..., None])


def _areas(drawable: Drawable, extents: Sequence[MaskExtent]) -> np.ndarray:
    if drawable.masks is not None:
        return np.array([extent.area for extent in extents])
    sides = drawable.boxes[:, 2:] - drawable.boxes[:, :2]
    areas: np.ndarray = sides.prod(axis=1)
    return areas


def _label(
    picture: np.ndarray,
    drawable: Drawable,
    extents: Sequence[MaskExtent],
    colours: list[Colour],
    order: np.ndarray,
) -> np.ndarray:
    """Write the labels inside the picture, those of large instances first.

    A label that would cover another is left out: both would be unreadable.
    """
    if not drawable.labels:
        return picture
    visualizer = Visualizer(picture)
    output = visualizer.output
    output.ax.images[0].remove()  # drawing it takes seconds where it is large
    output.fig.patch.set_alpha(0)
    renderer = output.canvas.get_renderer()
    font_size = max(13, min(picture.shape[:2]) / 24)
    placed: list[Bbox] = []
    for index in order:
        if drawable.masks is None:
            x0, y0, x1, _ = drawable.boxes[index].tolist()
            anchor: tuple[float, float] | None = ((x0 + x1) / 2, y0 + font_size / 4)
        else:
            anchor = label_anchor(extents[index], font_size)
        if anchor is None:
            continue
        visualizer.draw_text(
            drawable.labels[index],
            anchor,
            color=tuple(0.45 + 0.55 * part for part in colours[index]),  # to be read on black
            font_size=font_size * 72 / output.dpi,
        )
        text = output.ax.texts[-1]
        extent = text.get_window_extent(renderer).padded(font_size / 4)
        left = min(max(extent.x0, 0), output.width - extent.width)
        bottom = min(max(extent.y0, 0), output.height - extent.height)
        extent = Bbox.from_bounds(left, bottom, extent.width, extent.height)
        if extent.count_overlaps(placed):
            text.remove()
            continue
        placed.append(extent)
        # The figure counts y upwards, the image downwards; texts hang from the middle of their top.
        text.set_position((left + extent.width / 2, output.height - extent.y1 + font_size / 4))
    output.canvas.draw()
    _blend(picture, np.asarray(output.canvas.buffer_rgba()), placed)
    return picture


def _blend(picture: np.ndarray, labels: np.ndarray, extents: Sequence[Bbox]) -> None:
    """Lay labels over a picture, in place.

    Args:
        labels: uint8 (H, W, 4), the last channel their opacity.
        extents: where they are; y counts upwards.
    """
    height = len(picture)
    for extent in extents:
        top, bottom = (max(0, math.floor(height - y)) for y in (extent.y1 + 1, extent.y0 - 1))
        left, right = (max(0, math.floor(x)) for x in (extent.x0 - 1, extent.x1 + 1))
        box = slice(top, bottom + 1), slice(left, right + 1)
        label = labels[box].astype(np.float32)
        opacity = label[..., 3:] / 255
        part = picture[box]
        part[:] = (part + opacity * (label[..., :3] - part)).round().astype(np.uint8)


def label_anchor(extent: MaskExtent, font_size: float) -> tuple[float, float] | None:
    """x and y of the middle of a label's upper edge: inside a large instance, above a small one;
    None for an empty mask."""
    rows, columns = extent.box
    if rows.start == rows.stop:
        return None
    if rows.stop - 1 - rows.start < 3 * font_size:
        return (columns.start + columns.stop - 1) / 2, rows.start - 1.6 * font_size
    x, y = extent.median
    return x, y - font_size / 2


def _colour(index: int) -> Colour:
    """Bright colours; steps of the golden ratio keep neighbours in the list far apart in hue."""
    return colorsys.hsv_to_rgb((0.58 + index * 0.6180339887) % 1, 0.85, (1.0, 0.8)[index % 2])
