import json

import numpy as np
import pytest
from PIL import Image

from instseg_d2.dataset_check.check import check_dataset
from instseg_d2.dataset_check.pictures import BAD, choose_images, samples_of
from tests.coco_sample import coco


def checked(tmp_path, content, size=(12, 10)):
    (tmp_path / "a.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", size, (40, 40, 40)).save(tmp_path / image["file_name"])
    return check_dataset(str(tmp_path / "a.json"), str(tmp_path), num_workers=0)


def pictures(data):
    return [sample.picture for sample in samples_of(data, data.images)]


def test_masks_are_drawn_where_they_are(tmp_path):
    content = coco()
    content["annotations"] = content["annotations"][:1]
    drawn, empty = pictures(checked(tmp_path, content))
    factor = drawn.shape[0] // 10
    assert (empty == 40).all()
    inside = drawn[3 * factor : 4 * factor, 2 * factor : 8 * factor]
    assert (inside != 40).any(axis=2).mean() > 0.9
    assert (drawn[:, 10 * factor :] == 40).all()


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": [], "bbox": [1, 1, 5, 5]},
        {"segmentation": [[1e300, 1, 5, 1, 5, -1e300]]},
        {"segmentation": [[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9]]},
        {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}, "bbox": [0, 0, 9, 9]},
        {"segmentation": {"size": [10, 12], "counts": [20, 50, 50]}},
        {"segmentation": {"size": [10, 12], "counts": "PPPP"}, "bbox": [1, 1, 1e300, 1e300]},
        {"bbox": [1, 1, "x", 5]},
        {"bbox": [1, 1, 10**400, 5]},
    ],
)
def test_bad_annotations_do_not_keep_an_image_from_being_drawn(tmp_path, change):
    content = coco()
    content["annotations"][0].update(change)
    for picture in pictures(checked(tmp_path, content)):
        assert picture.dtype == np.uint8
        assert picture.shape[0] < 700


def test_what_is_bad_has_a_red_frame(tmp_path):
    content = coco()
    content["annotations"] = content["annotations"][:1]

    def red():
        return (pictures(checked(tmp_path, content))[0] == BAD).all(axis=2).any()

    assert not red()
    content["annotations"][0]["bbox"] = [1, 1, 40, 40]
    assert red()


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1)])
def test_narrow_images_give_pictures_of_a_usual_size(tmp_path, size):
    content = coco()
    for image in content["images"]:
        image.update(width=size[0], height=size[1])
    for picture in pictures(checked(tmp_path, content, size)):
        assert picture.size < 6e6


def test_unreadable_images_and_those_elsewhere_have_no_picture(tmp_path):
    content = coco()
    data = checked(tmp_path, content)
    (tmp_path / "a.png").write_bytes(b"none")
    (tmp_path / "b.png").unlink()
    assert pictures(data) == [None, None]


def test_images_of_each_kind_of_problem_are_chosen_before_others(tmp_path):
    content = coco()
    content["images"] = [
        {"id": number, "file_name": "a.png", "height": 10, "width": 12} for number in range(1, 101)
    ]
    template = {**content["annotations"][0], "category_id": 3}
    content["annotations"] = [
        {**template, "id": number, "image_id": number, "area": 640} for number in range(1, 51)
    ] + [{**template, "id": 90, "image_id": 90, "bbox": [1, 1, 0, 0]}]
    data = checked(tmp_path, content)
    data.problems.of("duplicate-file-name").clear()
    chosen = [image.image_id for image in choose_images(data, 10)]
    assert len(chosen) == len(set(chosen)) == 10
    assert 90 in chosen[:5]
    assert chosen == [image.image_id for image in choose_images(data, 10)]
    assert len(choose_images(data, 1000)) == 100
    assert choose_images(data, 0) == []
