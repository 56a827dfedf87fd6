import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from instseg_d2.rle_masks import RLEMasks
from sharpmask_d2 import pasting
from sharpmask_d2.pasting import paste
from sharpmask_d2.patch_crop import crop_mask
from sharpmask_d2.patch_sampling import Window
from sharpmask_d2.pyramid import Size, num_windows, window_corners
from sharpmask_d2.rle_encoding import encode_runs

WINDOW, STRIDE = 32, 8
THRESHOLD = math.log(0.2 / 0.8)


def pasted(
    logits: torch.Tensor, corners: torch.Tensor, level: Size, output: Size, threshold: float
) -> np.ndarray:
    """Bitmaps (n, H, L)."""
    runs = paste(logits, corners, level, output, threshold)
    return RLEMasks(encode_runs(runs, len(logits), output), output).decode().numpy()


def weights_of_axis(origin: int, window: int, level: int, length: int) -> np.ndarray:
    """What each output pixel takes of each mask pixel, (length, W); nan beyond the window."""
    factor = level / length
    weights = np.full((length, window), np.nan)
    for pixel in range(length):
        if origin * 2 * length <= (2 * pixel + 1) * level < (origin + window) * 2 * length:
            centre = (pixel + 0.5) * factor - origin
            distances = np.abs(np.arange(window) + 0.5 - centre)
            triangle = np.maximum(0, 1 - distances / max(factor, 1))
            weights[pixel] = triangle / triangle.sum()
    return weights


def reference(mask: np.ndarray, corner: list[int], level: Size, output: Size) -> np.ndarray:
    """Logits of one mask at every pixel of the output, float64 (H, L); nan beyond the window."""
    rows, columns = (
        weights_of_axis(*values) for values in zip(corner, mask.shape, level, output, strict=True)
    )
    return rows @ mask.astype(np.float64) @ columns.T


def blobs(count: int, size: int = WINDOW, roughness: float = 0.5) -> torch.Tensor:
    """Mask logits (count, size, size): a disc with a ragged rim, and some noise."""
    places = torch.arange(size) + 0.5 - size / 2
    distance = (places[:, None] ** 2 + places**2).sqrt()
    ragged = F.interpolate(torch.randn(count, 1, 6, 6), (size, size), mode="bicubic")[:, 0]
    return size / 3 - distance + 3 * ragged + roughness * torch.randn(count, size, size)


def all_corners(level: Size, window: int = WINDOW, stride: int = STRIDE) -> torch.Tensor:
    rows, columns = (torch.arange(number) for number in num_windows(level, stride))
    return window_corners(torch.cartesian_prod(rows, columns), window, stride)


@settings(max_examples=60)
@given(
    scale=st.tuples(st.floats(0.15, 4), st.floats(0.15, 4)),
    output=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shape=st.sampled_from([(32, 8), (24, 16), (5, 1)]),
    seed=st.integers(0, 999),
)
def test_every_pixel_is_that_of_the_plain_way(
    scale: tuple[float, float], output: Size, shape: tuple[int, int], seed: int
) -> None:
    """Whatever the sizes; the factors of the two axes may even lie on both sides of 1."""
    torch.manual_seed(seed)
    window, stride = shape
    level = tuple(max(1, round(n * s)) for n, s in zip(output, scale, strict=True))
    corners = all_corners(level, window, stride)
    corners = corners[torch.randperm(len(corners))[:5]]
    logits = blobs(len(corners), window)
    masks = pasted(logits, corners, level, output, THRESHOLD)
    for mask, values, corner in zip(masks, logits.numpy(), corners.tolist(), strict=True):
        expected = reference(values, corner, level, output)
        clear = ~(np.abs(expected - THRESHOLD) < 1e-4)
        assert clear.mean() > 0.95 or clear.size < 20
        np.testing.assert_array_equal(mask[clear], (expected > THRESHOLD)[clear])


@pytest.mark.parametrize("scale", [0.25, 0.6, 1.0, 1.7])
def test_a_full_mask_is_its_window(scale: float) -> None:
    """It covers the pixels whose centres are in the window, up to the image's borders."""
    output = 60, 90
    level = round(60 * scale), round(90 * scale)
    corners = all_corners(level)
    masks = pasted(torch.ones(len(corners), WINDOW, WINDOW), corners, level, output, 0.0)
    rows, columns = np.arange(60) + 0.5, np.arange(90) + 0.5
    for mask, (top, left) in zip(masks, corners.tolist(), strict=True):
        y, x = rows * level[0] / 60 - top, columns * level[1] / 90 - left
        expected = ((y >= 0) & (y < WINDOW))[:, None] & ((x >= 0) & (x < WINDOW))
        np.testing.assert_array_equal(mask, expected)


def ellipse(centre: np.ndarray, radius: float) -> list[list[float]]:
    """A polygon, x before y."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    around = np.stack([np.cos(angles), 0.6 * np.sin(angles)], 1) * radius + centre
    return [around.ravel().tolist()]


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0])
def test_what_is_cropped_and_pasted_is_back_in_its_place(factor: float) -> None:
    """Training crops the truth of a window; pasting undoes it, without a shift."""
    output, window = (96, 144), 64
    level = round(96 * factor), round(144 * factor)
    shifts = []
    for centre in np.random.default_rng(0).uniform((55, 35), (90, 60), (30, 2)):
        polygon = ellipse(centre, 14 / factor**0.5)
        codes = mask_util.merge(mask_util.frPyObjects(polygon, *output))
        truth = mask_util.decode(codes).astype(bool)
        cell = np.round(centre[::-1] * factor / STRIDE).astype(int)
        y, x = cell * STRIDE / factor
        target = crop_mask(polygon, output, Window(x, y, factor), window)
        logits = torch.from_numpy(target).float()[None] - 0.5
        corner = window_corners(torch.tensor(cell)[None], window, STRIDE)
        (mask,) = pasted(logits, corner, level, output, 0.0)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9
        shifts.append(np.argwhere(mask).mean(0) - np.argwhere(truth).mean(0))
    assert np.abs(np.mean(shifts, 0)).max() < 0.05 * max(1, 1 / factor)


def test_the_crossing_of_the_threshold_is_exact() -> None:
    """A ramp of 1 a mask pixel: the rim moves by whole pixels as the threshold does."""
    ramp = torch.arange(32.0)[:, None].expand(32, 32)
    corner = torch.tensor([[0, 0]])
    for factor in (1, 2, 4):
        output = 32 * factor, 32 * factor
        for threshold in (0.0, 3.0, 7.25, 30.5, 31.0):
            (mask,) = pasted(ramp[None], corner, (32, 32), output, threshold)
            values = np.clip((np.arange(output[0]) + 0.5) / factor - 0.5, 0, 31)
            np.testing.assert_array_equal(mask[:, 0], values > threshold)
            (mask,) = pasted(ramp.T[None], corner, (32, 32), output, threshold)
            np.testing.assert_array_equal(mask[0], values > threshold)
            (mask,) = pasted(-ramp[None], corner, (32, 32), output, -threshold)
            np.testing.assert_array_equal(mask[:, 0], values < threshold)


def test_parts_between_two_pixels_are_nothing() -> None:
    """Bright rows and dark rows that no pixel's centre falls onto: none is empty or divided."""
    logits = -torch.ones(1, 32, 32)
    logits[0, 4] = 1.0
    logits[0, 16:] = 1.0
    logits[0, 20] = -1.0
    level, output = (64, 64), (64, 64)
    (mask,) = pasted(logits, torch.tensor([[0, 0]]), level, output, 0.5)
    assert np.flatnonzero(mask[:, 3]).tolist() == [4, *range(16, 20), *range(21, 32)]
    # At half the resolution rows 4 and 20 are only a part of their pixels.
    (mask,) = pasted(logits, torch.tensor([[0, 0]]), level, (32, 32), 0.5)
    assert np.flatnonzero(mask[:, 3]).tolist() == [*range(8, 10), *range(11, 16)]
    # The rows between two centres: a rise above the threshold and back within one pixel.
    narrow = -torch.ones(1, 32, 32)
    narrow[0, 4] = 1.0
    (mask,) = pasted(narrow, torch.tensor([[0, 0]]), (31, 31), (33, 33), 0.9)
    assert mask.sum() == 0


@pytest.mark.parametrize("scale", [0.3, 1.6])
def test_parts_computed_apart_are_the_same(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    output = 50, 70
    level = round(50 * scale), round(70 * scale)
    corners = all_corners(level)
    logits = blobs(len(corners))
    whole = paste(logits, corners, level, output, THRESHOLD)
    monkeypatch.setitem(pasting.VALUES_AT_A_TIME, "cpu", 1)
    single = paste(logits, corners, level, output, THRESHOLD)
    for ours, theirs in zip(single, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_masks_and_an_output_too_small_for_them() -> None:
    nothing = paste(torch.zeros(0, 32, 32), torch.zeros(0, 2).long(), (64, 64), (640, 480), 0.0)
    assert [len(values) for values in nothing] == [0, 0, 0]
    # Windows of 32 pixels of a level of 640 have no pixel's centre in an output of one pixel.
    corners = torch.tensor([[0, 0], [304, 304]])
    masks = pasted(torch.ones(2, 32, 32), corners, (640, 640), (1, 1), 0.0)
    assert masks[:, 0, 0].tolist() == [False, True]
    nothing = paste(torch.ones(1, 32, 32), corners[:1], (640, 640), (1, 1), 0.0)
    assert [len(values) for values in nothing] == [0, 0, 0]


def test_autocast_changes_nothing() -> None:
    corners = all_corners((96, 96))
    logits = blobs(len(corners))
    expected = paste(logits, corners, (96, 96), (60, 60), THRESHOLD)
    with torch.autocast("cpu", torch.bfloat16):
        actual = paste(logits, corners, (96, 96), (60, 60), THRESHOLD)
    np.testing.assert_array_equal(actual.starts, expected.starts)
    np.testing.assert_array_equal(actual.ends, expected.ends)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.6])
def test_a_gpu_gives_the_same_masks(scale: float) -> None:
    output = 120, 160
    level = round(120 * scale), round(160 * scale)
    corners = all_corners(level)
    logits = blobs(len(corners))
    expected = pasted(logits, corners, level, output, THRESHOLD)
    actual = pasted(logits.cuda(), corners.cuda(), level, output, THRESHOLD)
    assert (actual != expected).sum() <= 1e-5 * expected.sum()
