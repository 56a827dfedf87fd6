"""An image at several sizes, each padded so that windows may reach beyond its borders.

Shape shorthand: (h, w) a level's size; W side of a window; t the trunk's stride. A level is padded
by W / 2 on every side, so that windows are centred at the pixels 0, t, 2t, ... of the level, from
border to border: window (i, j) covers the padded pixels t * i <= y < t * i + W, and x likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

#: What lies beyond the borders: the middle of 0..255.
GREY = 127.5

Size = tuple[int, int]
"""(height, width) in pixels."""


def level_sizes(size: Size, scales: Sequence[float]) -> list[Size]:
    """The size of each level: rounded, at least one pixel."""
    height, width = size
    return [(max(1, round(height * s)), max(1, round(width * s))) for s in scales]


def num_windows(size: Size, stride: int) -> Size:
    """Rows and columns of windows of a level, whose centres are in it or on its border."""
    return size[0] // stride + 1, size[1] // stride + 1


def window_corners(cells: Tensor, window_size: int, stride: int) -> Tensor:
    """Rows and columns of windows (n, 2) -> their top left corners (y, x) in pixels of the level,
    some of them negative."""
    return cells * stride - window_size // 2


def resize_image(image: Tensor, size: Size) -> Tensor:
    """As patches are cropped: linear where it enlarges, a mean over what a pixel covers where it
    shrinks. (3, h, w) float -> (3, *size)."""
    if image.shape[-2:] == size:
        return image
    resized = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0]


def pyramid_level(image: Tensor, size: Size, window_size: int, stride: int) -> Tensor:
    """An image at one size in a frame of grey.

    The frame is wider on the right and at the bottom where the sides would be no multiple of the
    stride else, so that features of all strides fit onto each other. Windows that exist because of
    that are none of :func:`num_windows`.

    Args:
        image: (3, H, W) float, 0..255.
        size: of the level.
        window_size, stride: W, a multiple of t, and t.

    Returns:
        (3, P, Q), P and Q multiples of t.
    """
    height, width = size
    before = window_size // 2
    sides = [-(-(length + window_size) // stride) * stride for length in size]
    level = image.new_full((3, *sides), GREY)
    inside = level[:, before : before + height, before : before + width]
    inside.copy_(resize_image(image, size))
    return level
