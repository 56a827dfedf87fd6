"""Pictures side by side, with titles. All are RGB, uint8, (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = ("image", "ground truth", "prediction"),
    *,
    cell: int = 360,
    gap: int = 8,
) -> np.ndarray:
    """Put pictures side by side, one row for each image, with a title over each column.

    Args:
        rows: uint8 RGB pictures of any sizes, as many in each row as there are titles.
        titles: one for each column.
        cell: pictures are scaled to fit ``cell`` pixels in width and height.
        gap: white pixels between and around the pictures.

    Returns:
        uint8 RGB. A row is as high as its highest picture.

    Raises:
        ValueError: no rows, or a row of another length.
    """
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(f"expected rows of {len(titles)} pictures: {[len(row) for row in rows]}")
    width = len(titles) * (cell + gap) + gap
    strips = [_title_strip(titles, width, cell, gap)]
    for row in rows:
        fitted = [_fit(picture, cell) for picture in row]
        strip = np.full((max(len(picture) for picture in fitted) + gap, width, 3), 255, np.uint8)
        for column, picture in enumerate(fitted):
            height, breadth = picture.shape[:2]
            left = gap + column * (cell + gap) + (cell - breadth) // 2
            top = (len(strip) - gap - height) // 2
            strip[top : top + height, left : left + breadth] = picture
        strips.append(strip)
    return np.concatenate(strips)


def _fit(picture: np.ndarray, cell: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted: np.ndarray = cv2.resize(picture, size, interpolation=method)
    return fitted


def _title_strip(titles: Sequence[str], width: int, cell: int, gap: int) -> np.ndarray:
    height, dpi = 34, 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for column, title in enumerate(titles):
        centre = gap + column * (cell + gap) + cell / 2
        figure.text(centre / width, 0.45, title, ha="center", va="center", fontsize=12)
    canvas.draw()
    strip = np.asarray(canvas.buffer_rgba())[:height, :width, :3]
    # Rounding in matplotlib may make the canvas a pixel narrower.
    return np.pad(
        strip,
        ((0, height - strip.shape[0]), (0, width - strip.shape[1]), (0, 0)),
        constant_values=255,
    )
