import numpy as np
from PIL import Image

from instseg_d2.picture_files import save_picture


def test_png_holds_the_same_pixels(tmp_path):
    picture = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    save_picture(str(tmp_path / "a.PNG"), picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.PNG")), picture)


def test_any_other_name_makes_a_jpeg(tmp_path):
    picture = np.full((16, 24, 3), 90, np.uint8)
    save_picture(str(tmp_path / "a.jpg"), picture)
    image = Image.open(tmp_path / "a.jpg")
    assert image.format == "JPEG"
    np.testing.assert_allclose(np.asarray(image), picture, atol=2)
