import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharpmask_d2.patch_crop import crop_image
from sharpmask_d2.patch_sampling import Window
from sharpmask_d2.pyramid import (
    GREY,
    level_sizes,
    num_windows,
    pyramid_level,
    resize_image,
    window_corners,
)

WINDOW, STRIDE = 64, 16


def smooth_image(height: int, width: int, blob: int = 6) -> torch.Tensor:
    """(3, height, width) float, of blobs, whole numbers from 0 to 255."""
    coarse = torch.rand(1, 3, height // blob + 2, width // blob + 2) * 255
    image = F.interpolate(coarse, (height, width), mode="bicubic")[0]
    return image.round().clamp(0, 255)


def test_levels_are_rounded_and_never_empty() -> None:
    assert level_sizes((480, 640), [0.25, 2**-0.5, 2]) == [(120, 160), (339, 453), (960, 1280)]
    assert level_sizes((1, 3), [0.1, 1, 2]) == [(1, 1), (1, 3), (2, 6)]


@pytest.mark.parametrize(("window", "stride"), [(64, 16), (48, 16), (56, 8), (6, 2), (5, 1)])
@pytest.mark.parametrize("size", [(1, 1), (15, 16), (17, 32), (40, 300)])
def test_windows_are_centred_all_over_the_level(
    size: tuple[int, int], window: int, stride: int
) -> None:
    """From border to border, none for the sake of the padding alone, and all fit into the frame."""
    level = pyramid_level(torch.zeros(3, *size), size, window, stride)
    sides = zip(size, num_windows(size, stride), level.shape[1:], strict=True)
    for length, windows, padded in sides:
        assert padded % stride == 0
        assert (windows - 1) * stride <= length < windows * stride
        assert (windows - 1) * stride + window <= padded < length + window + stride
    corner, last = window_corners(torch.tensor([[0, 0], [1, 2]]), window, stride).tolist()
    assert corner == [-(window // 2)] * 2
    assert last == [stride - window // 2, 2 * stride - window // 2]


def test_the_image_lies_in_a_frame_of_grey() -> None:
    image = smooth_image(37, 50)
    level = pyramid_level(image, (37, 50), WINDOW, STRIDE)
    assert level.shape == (3, 112, 128)
    assert torch.equal(level[:, 32:69, 32:82], image)
    level[:, 32:69, 32:82] = GREY
    assert torch.equal(level, torch.full_like(level, 127.5))


def test_a_multiple_of_the_stride_gets_half_a_window_on_every_side() -> None:
    image = smooth_image(48, 80)
    expected = F.pad(image, (32,) * 4, value=127.5)
    assert torch.equal(pyramid_level(image, (48, 80), WINDOW, STRIDE), expected)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 1, 2])
def test_a_window_of_the_pyramid_is_a_patch_as_in_training(scale: float) -> None:
    """The same place at the same scale, resampled alike: what the network has learned from."""
    image = smooth_image(128, 192, blob=round(8 / min(scale, 1)))
    size = round(128 * scale), round(192 * scale)
    level = pyramid_level(image, size, WINDOW, STRIDE)
    rows, columns = num_windows(size, STRIDE)
    pixels = image.permute(1, 2, 0).numpy().astype(np.uint8)
    for row, column in {(0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1), (1, 0)}:
        y, x = row * STRIDE, column * STRIDE
        ours = level[:, y : y + WINDOW, x : x + WINDOW].numpy()
        patch = crop_image(pixels, Window(x / scale, y / scale, scale), WINDOW).astype(float)
        # Patches are whole numbers, and mix the image with the grey along its border.
        left, top, _, _ = Window(x / scale, y / scale, scale).box(WINDOW)
        inner = np.ones((WINDOW, WINDOW), bool)
        for axis, start, length in ((0, top, 128), (1, left, 192)):
            centres = start + (np.arange(WINDOW) + 0.5) / scale
            rim = (np.abs(centres) < 2 / scale + 1) | (np.abs(centres - length) < 2 / scale + 1)
            inner &= ~np.expand_dims(rim, 1 - axis)
        assert inner.mean() > 0.4
        assert np.abs(ours - patch)[:, inner].max() < 2.6
        assert np.abs(ours - patch)[:, inner].mean() < 0.6


def test_shrinking_takes_means_and_not_samples() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, ::2] = 255  # stripes
    small = resize_image(image, (16, 16))
    assert (small[:, 2:-2] - 127.5).abs().max() < 1
    assert resize_image(image, (64, 64)) is image


def test_both_axes_have_their_own_factor() -> None:
    image = torch.arange(40.0).expand(3, 30, 40)
    wide = resize_image(image, (30, 80))
    torch.testing.assert_close(wide[0, 7, 1:-1], torch.linspace(0.25, 38.75, 78))
