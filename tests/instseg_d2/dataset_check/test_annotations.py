"""What is reported of annotations: everything that is bad, and nothing that is good."""

import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instseg_d2.data.checks import load_checked_dataset
from instseg_d2.data.coco_json import check_coco_json
from instseg_d2.dataset_check.check import check_dataset
from instseg_d2.dataset_check.codes import KINDS
from instseg_d2.dataset_check.problems import Place, Problems
from instseg_d2.dataset_check.run_length_masks import check_rle
from instseg_d2.errors import DataError
from tests.coco_sample import coco


def compressed(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


@pytest.fixture
def found(tmp_path):
    """Codes of a content's errors and warnings."""

    def found(content, **options):
        path = tmp_path / "a.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return check_dataset(str(path), None, **options).problems

    return found


def clean():
    """The sample without what its two equal objects would be reported for."""
    content = coco()
    content["annotations"][1].update(
        bbox=[1, 1, 3, 8], area=24, segmentation=[[1, 1, 4, 1, 4, 9, 1, 9]]
    )
    content["annotations"][2].update(bbox=[2, 0, 5, 10], area=50)
    return content


def test_good_data_is_clean(found):
    problems = found(clean())
    # Only a crowd is in the second image, and every category has objects.
    assert dict(problems.counts()) == {}
    assert problems.exit_status(strict=True) == 0


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"bbox": [1, 1, 8]}, ["box-invalid"]),
        ({"bbox": "text"}, ["box-invalid"]),
        ({"bbox": [1, 1, "8", 8]}, ["box-invalid"]),
        ({"bbox": [1, 1, True, 8]}, ["box-invalid"]),
        ({"bbox": [1, 1, math.nan, 8]}, ["number-not-finite"]),
        ({"bbox": [1, 1, 10**400, 8]}, ["number-not-finite"]),
        ({"bbox": [1, 1, 1e300, 1e300]}, ["number-not-finite"]),
        ({"segmentation": [[1, 1, 1e200, 1, 1e200, -1e200]]}, ["number-not-finite"]),
        ({"bbox": [1, 1, 0, 8]}, ["box-without-area"]),
        ({"bbox": [9, 9, -8, -8]}, ["box-without-area"]),
        ({"bbox": [20, 20, 5, 5]}, ["box-off-mask", "box-outside-image"]),
        ({"bbox": [-2.5, 0, 11.5, 9]}, ["box-loose", "box-over-border"]),
        ({"area": 640}, ["area-mismatch"]),
        ({"area": "64"}, ["wrong-type"]),
        ({"area": math.inf}, ["number-not-finite"]),
        ({"segmentation": []}, ["mask-missing"]),
        ({"segmentation": None}, ["mask-missing"]),
        ({"segmentation": "text"}, ["segmentation-invalid"]),
        ({"segmentation": [[1, 1, 9, 1]]}, ["polygon-too-short"]),
        ({"segmentation": [[1, 1, 9, 1, 9, 9, 1]]}, ["polygon-invalid"]),
        ({"segmentation": [[[1, 1], [9, 1], [9, 9]]]}, ["polygon-invalid"]),
        ({"segmentation": [1, 1, 9, 1, 9, 9]}, ["segmentation-invalid"]),
        ({"segmentation": [[1, 1, 9, 1, 9, math.nan]]}, ["number-not-finite"]),
        ({"segmentation": [[1, 1, 9, 1, 9, 10**400]]}, ["number-not-finite"]),
        ({"segmentation": {"size": [12, 10], "counts": [120]}}, ["rle-wrong-size"]),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "abc"}}, ["rle-wrong-size"]),
        ({"segmentation": {"size": [10, "12"], "counts": [120]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10**9, 10**9], "counts": "abc"}}, ["rle-invalid"]),
        ({"segmentation": {"counts": [120]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": [20, 50]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": [200, -80]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": [20.0, 100]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": [2**80]}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": "\u00e4"}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": "PPPP"}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": "0" * 10**6}}, ["rle-invalid"]),
        ({"segmentation": {"size": [10, 12], "counts": [120]}}, ["mask-empty"]),
        ({"iscrowd": "0"}, ["crowd-flag-invalid"]),
        ({"iscrowd": 2}, ["crowd-flag-invalid"]),
        ({"ignore": 1}, ["ignore-flag"]),
        ({"category_id": 5}, ["unknown-category"]),
        ({"category_id": "3"}, ["id-not-integer", "unknown-category"]),
        ({"category_id": [3]}, ["id-not-integer", "unknown-category"]),
        ({"image_id": 99}, ["unknown-image"]),
        ({"image_id": "11"}, ["id-not-integer", "unknown-image"]),
        ({"image_id": {}}, ["id-not-integer", "unknown-image"]),
        ({"id": 102}, ["duplicate-annotation-id"]),
        ({"id": "a"}, ["id-not-integer"]),
        ({"id": 0}, ["annotation-id-zero"]),
    ],
)
def test_each_fault_is_found_and_no_other_is_made_up(found, change, codes):
    content = clean()
    content["annotations"][0].update(change)
    problems = found(content)
    serious = [p for p in problems if p.severity != "note"]
    assert sorted(p.code for p in serious) == sorted(codes)
    for problem in serious:
        if problem.code != "duplicate-annotation-id":
            assert problem.annotation_id == change.get("id", 101)
        assert problem.image_id == change.get("image_id", 11)
    severities = {p.severity for p in serious}
    assert problems.exit_status(strict=False) == ("error" in severities)
    assert problems.exit_status(strict=True) == 1


def test_all_faults_of_an_annotation_are_reported(found):
    content = clean()
    content["annotations"][0].update(
        id="x", category_id=99, bbox=[1, 1, 0, 8], area="big", iscrowd=-1, segmentation=[[1, 2]]
    )
    del content["annotations"][1]["area"], content["annotations"][1]["bbox"]
    assert found(content).counts().keys() >= {
        "id-not-integer", "unknown-category", "box-without-area", "wrong-type",
        "crowd-flag-invalid", "polygon-too-short", "field-missing",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area", "iscrowd"])
def test_missing_keys_are_named(found, key):
    content = clean()
    del content["annotations"][0][key]
    (problem,) = found(content).of("field-missing")
    assert key in problem.text


# --------------------------------------------------------------------------- larger geometry


def square(x, y, side=40):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def one_object(segmentation, bbox, area=1600):
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox, "area": area, "iscrowd": 0,
             "segmentation": segmentation}
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("polygons", "bbox", "area", "codes"),
    [
        ([square(10, 20)], [10, 20, 40, 40], 1600, []),
        ([square(10, 20)], [10, 20, 42, 42], 1500, []),
        # Rounding, and tools that count pixels from 1.
        ([square(160.5, 60.5)], [160.5, 60.5, 40.5, 40], 1600, []),
        # Two polygons that overlap: 'area' of their union or of their sum.
        ([square(10, 20), square(20, 20)], [10, 20, 50, 40], 2000, []),
        ([square(10, 20), square(20, 20)], [10, 20, 50, 40], 3200, []),
        ([square(10, 20)], [10, 20, 50, 60], 1600, ["box-is-corners"]),
        ([square(10, 20)], [60, 20, 40, 40], 1600, ["box-off-mask"]),
        ([square(10, 20)], [10, 20, 60, 40], 1600, ["box-loose"]),
        ([square(180, 20)], [180, 20, 40, 40], 1600,
         ["polygon-over-border", "box-over-border"]),
        ([square(300, 20)], [300, 20, 40, 40], 1600,
         ["polygon-outside-image", "box-outside-image"]),
        ([[0.1, 0.2, 0.5, 0.2, 0.5, 0.9, 0.1, 0.9]], [0.1, 0.2, 0.4, 0.7], 0.28,
         ["coordinates-normalised"]),
        ([[10, 10, 50, 50, 50, 10, 10, 50]], [10, 10, 40, 40], 800, ["polygon-self-crossing"]),
        ([[10, 10, 50, 10, 90, 10]], [10, 10, 80, 1], 0, ["polygon-without-area", "mask-empty"]),
        ([[10, 10, 10, 10, 10, 10]], [10, 10, 1, 1], 0, ["polygon-without-area", "mask-empty"]),
        # Closed by hand, and with a point twice: as good as without.
        ([[*square(10, 20), 10, 20]], [10, 20, 40, 40], 1600, []),
        ([[10, 20, *square(10, 20)]], [10, 20, 40, 40], 1600, []),
        ([square(-1e9, -1e9, 2e9)], [0, 0, 200, 100], 1600,
         ["polygon-over-border", "box-off-mask"]),
    ],
)  # fmt: skip
def test_geometry(found, polygons, bbox, area, codes):
    problems = found(one_object(polygons, bbox, area))
    assert sorted(p.code for p in problems if p.severity != "note") == sorted(codes)


def test_a_border_that_only_touches_itself_is_a_note(found):
    polygon = [10, 10, 30, 10, 30, 30, 50, 30, 50, 50, 30, 50, 30, 30, 10, 30]
    problems = found(one_object([polygon], [10, 10, 40, 40], 800))
    assert problems.counts() == {"polygon-self-touching": 1}
    assert "(30, 30)" in problems.of("polygon-self-touching")[0].text


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**31))
def test_boxes_and_areas_of_codes_are_those_of_their_pixels(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    problems = Problems()
    facts = check_rle(compressed(mask), (height, width), Place(), problems)
    assert not problems.counts()
    assert facts.most == facts.least == mask.sum()
    if not mask.any():
        assert facts.box is None
        return
    ys, xs = mask.nonzero()
    assert facts.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=8)
            | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    st.sampled_from(["bbox", "segmentation", "area", "iscrowd", "id", "image_id", "category_id"]),
)
def test_any_value_anywhere_is_reported_rather_than_a_crash(tmp_path_factory, value, key):
    content = clean()
    content["annotations"][0][key] = value
    path = tmp_path_factory.mktemp("any") / "a.json"
    path.write_text(json.dumps(content))
    data = check_dataset(str(path), None)
    assert len(data.objects) <= 3


# --------------------------------------------------------------------------- the lists


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: c.pop("images"), "list-missing"),
        (lambda c: c.update(categories=[]), "list-missing"),
        (lambda c: c.update(annotations={}), "wrong-type"),
        (lambda c: c["images"].append(5), "wrong-type"),
        (lambda c: c["images"].append(c["images"][0]), "duplicate-image-id"),
        (lambda c: c["images"][0].pop("height"), "field-missing"),
        (lambda c: c["images"][0].update(width="12"), "image-size-invalid"),
        (lambda c: c["images"][0].update(width=0), "image-size-invalid"),
        (lambda c: c["images"][0].update(width=10**400), "image-size-invalid"),
        (lambda c: c["images"][0].update(file_name=5), "wrong-type"),
        (lambda c: c["images"][1].update(file_name="a.png"), "duplicate-file-name"),
        (lambda c: c["categories"].append({"id": 3, "name": "x"}), "duplicate-category-id"),
        (lambda c: c["categories"].append({"id": 9, "name": "cat"}), "duplicate-category-name"),
        (lambda c: c["categories"].append({"id": 9, "name": "new"}), "unused-category"),
        (lambda c: c["categories"].append({"id": 9}), "field-missing"),
        (lambda c: c["categories"].append({"id": 9, "name": 9}), "wrong-type"),
        (lambda c: c["images"].append({**c["images"][0], "id": 13}), "image-without-objects"),
        (lambda c: c["annotations"].append({**c["annotations"][0], "id": 9}),
         "duplicate-annotation"),
        (lambda c: c["annotations"].append({**c["annotations"][0], "id": 9, "category_id": 7}),
         "object-of-two-categories"),
        (lambda c: c["annotations"].append(
            {**c["annotations"][0], "id": 9, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 8.9]]}),
         "near-duplicate"),
        (lambda c: c.update(annotations=c["annotations"][2:]), "no-objects"),
    ],
)  # fmt: skip
def test_faults_of_the_lists(found, change, code):
    content = clean()
    change(content)
    assert found(content).counts()[code] >= 1
    assert code not in found(content, ignored=[code]).counts()


def test_every_object_of_a_crowded_image_is_compared(found):
    content = one_object([square(10, 20)], [10, 20, 40, 40])
    template = content["annotations"][0]
    for number in range(2, 9):
        content["annotations"].append(
            {**template, "id": number, "bbox": [5 * number + 20, 20, 40, 40],
             "segmentation": [square(5 * number + 20, 20)]}
        )  # fmt: skip
    content["annotations"].append({**template, "id": 50})
    (problem,) = found(content).of("duplicate-annotation")
    assert problem.annotation_id == 50
    assert "annotation 1" in problem.text


@pytest.mark.parametrize(
    "text", ["", "[]", "5", '{"images": [', "[" * 100000, '{"a": "\\ud800"', "\x00"]
)
def test_files_that_are_no_coco_json_are_refused(found, text):
    with pytest.raises(DataError, match=r"a\.json"):
        found(text)


# ---------------------------------------------------------------- what training refuses


BAD = [
    lambda a: a.update(category_id=5),
    lambda a: a.update(bbox=[]),
    lambda a: a.update(bbox=[1, 2, 3]),
    lambda a: a.pop("bbox"),
    lambda a: a.update(ignore=1),
    lambda a: a.update(segmentation=[]),
    lambda a: a.pop("segmentation"),
    lambda a: a.update(segmentation={"size": [12, 10], "counts": [20, 50, 50]}),
    lambda a: a.update(segmentation={"size": [10, 12], "counts": [20, 500]}),
    lambda a: a.update(segmentation={"size": [10, 12], "counts": "PPPP"}),
    lambda a: a.update(segmentation={"size": [10, 12]}),
    lambda a: a.update(segmentation=[[1, 1, 5, 5, float("nan"), 3]]),
    lambda a: a.update(id=102),
    lambda a: a.pop("area"),
    lambda a: a.pop("iscrowd"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_training_or_evaluation_refuses_is_an_error(tmp_path, number):
    content = clean()
    BAD[number](content["annotations"][0])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (12, 10)).save(tmp_path / image["file_name"])
    name = f"dataset_check_{number}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    try:
        refused = False
        for for_training in (True, False):
            try:
                load_checked_dataset(
                    name, num_classes=2, classes_key="KEY", max_instances=None,
                    for_training=for_training,
                )  # fmt: skip
                check_coco_json(str(path), "training" if for_training else "evaluation")
            except DataError:
                refused = True
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert refused
    assert check_dataset(str(path), None).problems.severities()["error"] >= 1


def test_codes_are_unique_words_with_a_meaning():
    for code, kind in KINDS.items():
        assert code == code.lower().replace("_", "-")
        assert kind.meaning
