import numpy as np
import pytest
import torch
from PIL import Image

from instseg_d2.data.whole_images import WholeImageMapper
from instseg_d2.errors import ConfigError, DataError


@pytest.fixture
def record(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {"file_name": str(tmp_path / "a.png"), "image_id": 3, "annotations": "not looked at"}


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_pixels_are_those_of_the_file(record, image_format):
    before = dict(record)
    sample = WholeImageMapper(image_format)(record)
    assert record == before
    pixels = np.asarray(Image.open(record["file_name"]))
    pixels = pixels if image_format == "RGB" else pixels[..., ::-1]
    assert sample["image"].dtype == torch.uint8
    assert (sample["image"].numpy() == pixels.transpose(2, 0, 1)).all()
    assert (sample["height"], sample["width"], sample["image_id"]) == (5, 7, 3)
    assert sample["file_name"] == record["file_name"]
    assert set(sample) == {"image", "height", "width", "image_id", "file_name"}


def test_grey_images_have_three_channels(tmp_path):
    Image.new("L", (4, 3), 9).save(tmp_path / "a.png")
    sample = WholeImageMapper()({"file_name": str(tmp_path / "a.png")})
    assert sample["image"].shape == (3, 3, 4)
    assert sample["image_id"] is None


def test_what_cannot_be_used(record):
    with pytest.raises(ConfigError, match=r"INPUT.FORMAT is 'L'"):
        WholeImageMapper("L")
    with pytest.raises(DataError, match="is 7 x 5 pixels"):
        WholeImageMapper()(record | {"height": 7, "width": 5})
    with pytest.raises(DataError, match=r"image b.png \(image id 3\) does not exist"):
        WholeImageMapper()(record | {"file_name": "b.png"})
