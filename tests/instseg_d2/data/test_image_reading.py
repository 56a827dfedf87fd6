"""Images that cannot be read are named."""

import numpy as np
import pytest
from PIL import Image

from instseg_d2.data.image_reading import read_image
from instseg_d2.errors import DataError
from instseg_d2.image_file import ImageFile


def test_read_image_gives_the_asked_channel_order_and_fills_in_the_size(tmp_path):
    Image.new("RGB", (5, 4), (10, 20, 30)).save(tmp_path / "a.png")
    entry = {"file_name": str(tmp_path / "a.png")}
    image = read_image(entry, "BGR")
    assert image.dtype == np.uint8
    assert image.shape == (4, 5, 3)
    assert image[0, 0].tolist() == [30, 20, 10]
    assert (entry["height"], entry["width"]) == (4, 5)
    assert read_image(entry, "RGB")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "cannot be read"), (b"not an image", "cannot be read")],
)
def test_unreadable_images_are_named(tmp_path, content, said):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_image({"file_name": str(path), "image_id": 77}, "RGB")
    assert str(path) in str(error.value)
    assert "image id 77" in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_images_are_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.randint(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated") as error:
        read_image({"file_name": str(path)}, "RGB")
    assert "image id unknown" in str(error.value)


def test_images_without_pixels_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.touch()
    nothing = ImageFile(np.zeros((0, 5, 3), np.uint8), (0, 5))
    monkeypatch.setattr("instseg_d2.data.image_reading.read_image_file", lambda *_: nothing)
    with pytest.raises(DataError, match=r"has no pixels: its shape is \(0, 5, 3\)"):
        read_image({"file_name": str(path)}, "RGB")


def test_other_size_than_annotated(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 4)).save(path)
    with pytest.raises(DataError, match=r"is 5 x 4 pixels.* says 6 x 4") as error:
        read_image({"file_name": str(path), "image_id": 3, "height": 4, "width": 6}, "RGB")
    assert "EXIF" not in str(error.value)


def test_swapped_sides_hint_at_the_exif_orientation(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(path, exif=exif)
    assert read_image({"file_name": str(path), "height": 5, "width": 4}, "RGB").shape == (5, 4, 3)
    with pytest.raises(DataError, match="EXIF orientation"):
        read_image({"file_name": str(path), "height": 4, "width": 5}, "RGB")
