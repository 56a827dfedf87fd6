from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from instseg_d2.errors import DataError
from sharpmask_d2.patch_crop import GREY, crop_image
from sharpmask_d2.patch_sampling import Window
from sharpmask_d2.reduced_image import read_reduced_image

WIDTH, HEIGHT = 333, 251  # odd: the last pixels of a shrunk image hang over


def smooth_image() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    channels = [128 + 100 * np.sin(x / 31), 128 + 100 * np.cos(y / 27), 255 * x / WIDTH]
    return np.stack(channels, -1).astype(np.uint8)


def record_of(path: Path, **extra: int) -> dict:
    return {"file_name": str(path), "image_id": 7, "width": WIDTH, "height": HEIGHT, **extra}


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth_image()).save(path, quality=98, subsampling=0)
    return path


@pytest.mark.parametrize(
    ("scale", "reduction"),
    [(3, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.13, 4), (0.125, 8), (0.01, 8)],
)
def test_never_smaller_than_the_view_needs(jpeg: Path, scale: float, reduction: int) -> None:
    image, got = read_reduced_image(record_of(jpeg), "RGB", scale)
    assert got == reduction
    assert image.shape == (-(-HEIGHT // reduction), -(-WIDTH // reduction), 3)


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.125])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_patch_is_that_of_the_whole_image(jpeg: Path, scale: float, image_format: str) -> None:
    window = Window(170.3, 120.8, scale, True)
    image, reduction = read_reduced_image(record_of(jpeg), image_format, scale)
    patch = crop_image(image, window.in_crop(0, 0, reduction), 64)
    expected = crop_image(smooth_image(), window, 64)
    if image_format == "BGR":
        expected = expected[::-1]
    difference = np.abs(patch.astype(int) - expected).max(0)
    # Along the borders the grey mixes in differently.
    inside = cv2.erode((expected != GREY).any(0).astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.sum() > 800
    assert difference[inside].max() <= 6
    assert difference.mean() < 3


def test_other_files_are_read_whole(jpeg: Path, tmp_path: Path) -> None:
    png = tmp_path / "image.png"
    Image.fromarray(smooth_image()).save(png)
    image, reduction = read_reduced_image(record_of(png), "RGB", 0.1)
    assert reduction == 1
    np.testing.assert_array_equal(image, smooth_image())

    without_size = {"file_name": str(jpeg)}
    assert read_reduced_image(without_size, "RGB", 0.1)[1] == 1
    assert (without_size["width"], without_size["height"]) == (WIDTH, HEIGHT)


def test_orientation_is_followed(tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(smooth_image()).save(turned, exif=exif)
    record = record_of(turned, width=HEIGHT, height=WIDTH)
    image, reduction = read_reduced_image(record, "RGB", 0.1)
    assert reduction == 1
    assert image.shape == (WIDTH, HEIGHT, 3)


def test_grey_files_have_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    Image.fromarray(smooth_image()).convert("L").save(path)
    for scale in (1.0, 0.1):
        assert read_reduced_image(record_of(path), "RGB", scale)[0].shape[2] == 3


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_damaged_files_are_named(jpeg: Path, scale: float) -> None:
    jpeg.write_bytes(jpeg.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"image\.jpg.*image id 7"):
        read_reduced_image(record_of(jpeg), "RGB", scale)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_another_size_than_annotated_is_an_error(jpeg: Path, scale: float) -> None:
    with pytest.raises(DataError, match="333 x 251"):
        read_reduced_image(record_of(jpeg, width=300), "RGB", scale)


def test_images_too_small_to_shrink(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jpg"
    Image.fromarray(smooth_image()[:3, :5]).save(path)
    image, reduction = read_reduced_image(record_of(path, width=5, height=3), "RGB", 0.01)
    assert (image.shape, reduction) == ((3, 5, 3), 1)
