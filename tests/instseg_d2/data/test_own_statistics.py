from instseg_d2.data.own_statistics import MAX_CLASSES_SHOWN, DataStatistics, statistics_table
from instseg_d2.data.own_summary import suggested_limit
from tests.coco_sample import coco


def test_counts_of_a_small_file():
    found = DataStatistics.of(coco())
    assert (found.images, found.empty, found.objects, found.crowds) == (2, 1, 2, 1)
    assert found.classes == {"cat": 1, "dog": 1}
    assert found.sizes == {"small": 2, "medium": 0, "large": 0}
    assert (found.most, found.fullest) == (2, 11)
    assert found.rows()["sizes (width x height)"] == "12 x 10"


def test_sizes_are_cocos_and_fall_back_to_the_box():
    content = coco()
    first, second, _ = content["annotations"]
    first["area"] = 32**2
    del second["area"]
    second["bbox"] = [0, 0, 96, 96]
    assert DataStatistics.of(content).sizes == {"small": 0, "medium": 1, "large": 1}


def test_images_of_several_sizes():
    content = coco()
    content["images"][0].update(width=300, height=5)
    text = DataStatistics.of(content).rows()["sizes (width x height)"]
    assert text == "12 x 5 to 300 x 10, most often 300 x 5 (1)"


def test_data_without_annotations():
    content = coco()
    del content["annotations"]
    found = DataStatistics.of(content)
    assert (found.empty, found.objects, found.most) == (2, 0, 0)
    assert "class 0, cat" in statistics_table({"val": found}, ["cat", "dog"])


def test_annotations_whose_numbers_are_damaged_or_whose_image_is_unknown():
    content = coco()
    content["annotations"][0].update(area="big", bbox=[1])
    content["annotations"][1].update(area=float("nan"))
    content["annotations"].append({**content["annotations"][0], "id": 9, "image_id": 99})
    assert DataStatistics.of(content).objects == 2


def test_of_many_classes_the_most_frequent_are_shown():
    content = coco()
    content["categories"] += [{"id": 100 + n, "name": f"c{n}"} for n in range(MAX_CLASSES_SHOWN)]
    content["annotations"][0]["category_id"] = 100 + MAX_CLASSES_SHOWN - 1
    names = [category["name"] for category in content["categories"]]
    table = statistics_table({"train": DataStatistics.of(content)}, names)
    assert f"c{MAX_CLASSES_SHOWN - 1}" in table
    assert "... and 2 rarer classes" in table


def test_limits_leave_room():
    assert [suggested_limit(most) for most in (0, 8, 9, 80, 100)] == [10, 10, 20, 100, 130]
