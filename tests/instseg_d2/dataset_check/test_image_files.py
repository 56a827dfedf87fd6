import json

import numpy as np
import pytest
from PIL import Image

from instseg_d2.data.image_reading import read_image
from instseg_d2.dataset_check.check import check_dataset
from instseg_d2.dataset_check.image_files import inspect_file, resolve
from instseg_d2.errors import DataError


def save(path, size=(12, 10), orientation=None, mode="RGB", **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new(mode, size).save(path, exif=exif, **options)


def check(tmp_path, file="a.jpg", width=12, height=10):
    content = {
        "images": [{"id": 5, "file_name": file, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64,
             "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}
        ],
    }  # fmt: skip
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (tmp_path / "images").mkdir(exist_ok=True)
    data = check_dataset(str(path), str(tmp_path / "images"), num_workers=2)
    refused = False
    try:
        found = resolve(str(tmp_path / "images"), file)
        read_image({"file_name": found or "", "width": width, "height": height}, "RGB")
    except DataError:
        refused = True
    return [problem.code for problem in data.problems], refused, data.problems


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("orientation", "sides", "codes", "is_refused"),
    [
        (None, (12, 10), [], False),
        (1, (12, 10), [], False),
        (6, (10, 12), ["image-exif-rotated"], False),
        (6, (12, 10), ["image-exif-swapped"], True),
        (8, (20, 10), ["image-size-mismatch"], True),
        (3, (12, 10), ["image-exif-unclear"], False),
        (99, (12, 10), [], False),
        (None, (10, 12), ["image-size-mismatch"], True),
    ],
)
def test_sizes_are_those_of_detectron2s_reader(
    tmp_path, images, orientation, sides, codes, is_refused
):
    save(images / "a.jpg", orientation=orientation)
    found, refused, _ = check(tmp_path, width=sides[0], height=sides[1])
    serious = [code for code in found if not code.startswith(("polygon", "box"))]
    assert serious == codes
    assert refused == is_refused


@pytest.mark.parametrize(("sides", "codes"), [((12, 10), []), ((10, 12), ["image-size-mismatch"])])
def test_pillow_turns_tiff_files_upright_by_itself(tmp_path, images, sides, codes):
    save(images / "a.tif", size=(10, 12), orientation=6)
    found, refused, _ = check(tmp_path, "a.tif", *sides)
    assert [code for code in found if code.startswith("image")] == codes
    assert refused == bool(codes)


def test_a_rotated_square_is_unclear(tmp_path, images):
    save(images / "a.jpg", (12, 12), orientation=6)
    assert check(tmp_path, height=12)[0] == ["image-exif-unclear"]


@pytest.mark.parametrize("content", [None, b"", b"no image", "truncated"])
def test_missing_and_damaged_files_are_errors_as_they_are_in_training(tmp_path, images, content):
    path = images / "a.jpg"
    if content == "truncated":
        Image.fromarray(np.random.randint(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    codes, refused, problems = check(tmp_path)
    assert codes == ["image-missing" if content is None else "image-unreadable"]
    assert refused
    (problem,) = problems
    assert (problem.file, problem.image_id, problem.severity) == ("a.jpg", 5, "error")


@pytest.mark.parametrize("file", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "..", "../imagesx/a"])
def test_files_outside_of_the_folder_are_not_opened(tmp_path, images, file):
    save(tmp_path / "a.jpg")
    assert check(tmp_path, file)[0] == ["path-leaves-folder"]


@pytest.mark.parametrize("file", ["a/../a.jpg", "./a.jpg"])
def test_detours_within_the_folder_are_allowed(tmp_path, images, file):
    save(images / "a.jpg")
    assert check(tmp_path, file)[0] == []


def test_odd_names_do_not_crash(tmp_path, images):
    assert check(tmp_path, "a\0b.jpg")[0] in (["image-missing"], ["image-unreadable"])
    codes, _, problems = check(tmp_path, "sub\\a.jpg")
    assert codes == ["image-missing"]
    assert "backslashes" in next(iter(problems)).text
    assert check(tmp_path, "https://host/a.jpg")[0] == ["image-remote"]


def test_deep_images_and_several_frames(tmp_path, images):
    save(images / "a.png", mode="I;16")
    assert check(tmp_path, "a.png")[0] == ["image-deep"]
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(images / "a.gif", save_all=True, append_images=frames[1:])
    assert check(tmp_path, "a.gif")[0] == ["image-frames"]


def test_a_folder_is_no_image(images):
    assert inspect_file(str(images)).problem == "image-missing"
