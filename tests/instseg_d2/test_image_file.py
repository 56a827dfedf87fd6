import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instseg_d2.image_file import read_image_file, reduced_size


def picture() -> Image.Image:
    """40 x 24 (width x height): red on the left, blue on the right, green at the bottom."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:, :20, 0] = 200
    pixels[:, 20:, 2] = 100
    pixels[18:, :, 1] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_usual_images_are_read_as_detectron2_reads_them(tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / "image.tif")
    picture().convert(mode).save(path)
    for image_format in ("BGR", "RGB"):
        found = read_image_file(path, image_format)
        np.testing.assert_array_equal(
            found.pixels, detection_utils.read_image(path, format=image_format)
        )
        assert found.full_size == (24, 40)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (np.array([[0, 65535, 32768]], np.uint16), "deep.png"),
        (np.array([[0, 4095, 2048]], np.uint16), "twelve_bits.png"),
        (np.array([[0, 2**20 - 1, 2**19]], np.int32), "deep.tif"),
        (np.array([[-3.0, 1.0, -1.0 + 1 / 128]], np.float32), "float.tif"),
    ],
)
def test_more_than_8_bits_become_8(tmp_path: Path, values: np.ndarray, name: str) -> None:
    path = str(tmp_path / name)
    Image.fromarray(values).save(path)
    found = read_image_file(path, "BGR").pixels
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255], [128, 128, 128]]]


def test_images_of_16_bits_that_hold_8_keep_their_values(tmp_path: Path) -> None:
    path = str(tmp_path / "image.png")
    Image.fromarray(np.array([[3, 200]], np.uint16)).save(path)
    assert read_image_file(path, "RGB").pixels[..., 0].tolist() == [[3, 200]]


def test_floating_point_without_any_range_or_sense(tmp_path: Path) -> None:
    path = str(tmp_path / "image.tif")
    Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)).save(path)
    assert (read_image_file(path, "RGB").pixels == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_turned_images_are_reduced_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = str(tmp_path / f"image.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().resize((400, 240)).save(path, exif=exif)
    whole = read_image_file(path, "RGB")
    assert whole.full_size == whole.pixels.shape[:2]
    assert whole.full_size == ((240, 400) if orientation < 5 else (400, 240))
    small = read_image_file(path, "RGB", max_pixels=24 * 40)
    assert small.full_size == whole.full_size
    assert small.pixels.shape[:2] == ((24, 40) if orientation < 5 else (40, 24))
    wanted = Image.fromarray(whole.pixels).resize(small.pixels.shape[1::-1], Image.Resampling.BOX)
    difference = np.abs(small.pixels.astype(int) - np.asarray(wanted))
    assert np.median(difference) <= 2


TURNED_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how the upright image is turned to be stored so."""


@pytest.mark.parametrize("orientation", TURNED_BY)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_turned_images_are_turned_back_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = str(tmp_path / f"image.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().transpose(TURNED_BY[orientation]).save(path, exif=exif)
    found = read_image_file(path, "RGB")
    np.testing.assert_array_equal(found.pixels, np.asarray(picture()))
    assert found.full_size == (24, 40)
    small = read_image_file(path, "RGB", max_pixels=240)
    assert (small.pixels.shape, small.full_size) == ((12, 20, 3), (24, 40))


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "L", "CMYK"])
def test_all_kinds_can_be_reduced(tmp_path: Path, mode: str) -> None:
    path = str(tmp_path / "image.tif")
    picture().convert(mode).save(path)
    found = read_image_file(path, "BGR", max_pixels=100)
    assert found.pixels.shape == (7, 12, 3)
    assert found.full_size == (24, 40)


def test_a_palettes_colours_are_averaged_not_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2], [0, 2]], np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = str(tmp_path / "image.png")
    image.save(path)
    (((red, green, blue),),) = read_image_file(path, "RGB", max_pixels=1).pixels.tolist()
    assert green == 0
    assert abs(red - 128) <= 1
    assert abs(blue - 128) <= 1


def test_numpy_never_holds_a_huge_image_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "image.png")
    Image.new("RGB", (6000, 4000)).save(path, compress_level=1)
    tracemalloc.start()
    found = read_image_file(path, "BGR", max_pixels=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.full_size == (4000, 6000)
    assert peak < 12 * 10**6


@given(st.integers(1, 70000), st.integers(1, 70000), st.integers(1, 2**24))
def test_reduced_sizes(height: int, width: int, most: int) -> None:
    rows, columns = reduced_size((height, width), most)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= most or (rows, columns) == (height, width)
    if height * width <= most:
        assert (rows, columns) == (height, width)
    if min(rows, columns) > 20:
        assert rows / columns == pytest.approx(height / width, rel=0.06)
    if height != width:
        assert reduced_size((width, height), most) == (columns, rows)
