"""Figures of both packages, against pycocotools as it is."""

import builtins
import copy
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.coco_metrics import (
    PYCOCOTOOLS,
    Backend,
    CocoFigures,
    CocoTruth,
    Task,
    default_backend,
)
from instseg_d2.errors import DataError, DependencyError
from tests.coco_cases import RICH, Case, pycocotools_evaluation, random_case

TASKS: tuple[Task, ...] = ("bbox", "segm")


@pytest.fixture(params=["faster-coco-eval", "pycocotools"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "pycocotools":
        return PYCOCOTOOLS
    pytest.importorskip("faster_coco_eval")
    return default_backend()


def assert_same(figures: CocoFigures, wanted: COCOeval | CocoFigures) -> None:
    np.testing.assert_allclose(figures.stats, wanted.stats, rtol=0, atol=1e-12)
    for name in ("precision", "recall"):
        np.testing.assert_allclose(figures.eval[name], wanted.eval[name], rtol=0, atol=1e-12)


def changed_ids(
    case: Case,
    *,
    image: Callable[[int], Any] = int,
    category: Callable[[int], Any] = int,
    annotation: Callable[[int], Any] = int,
) -> Case:
    dataset, results = case

    def of_object(entry: dict[str, Any]) -> dict[str, Any]:
        ids = {
            "image_id": image(entry["image_id"]),
            "category_id": category(entry["category_id"]),
        }
        return {**entry, **ids}

    annotations = [
        {**of_object(entry), "id": annotation(entry["id"])} for entry in dataset["annotations"]
    ]
    images = [{**entry, "id": image(entry["id"])} for entry in dataset["images"]]
    categories = [{**entry, "id": category(entry["id"])} for entry in dataset["categories"]]
    renamed = {"images": images, "categories": categories, "annotations": annotations}
    return renamed, [of_object(result) for result in results]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(30))
def test_all_numbers_are_those_of_pycocotools(backend: Backend, seed: int, task: Task) -> None:
    dataset, results = random_case(seed)
    figures = CocoTruth(dataset).figures(results, task, backend=backend)
    assert_same(figures, pycocotools_evaluation(dataset, results, task))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("start", [1000, 1050])
def test_all_numbers_of_many_cases(start: int, task: Task) -> None:
    for seed in range(start, start + 50):
        dataset, results = random_case(seed)
        figures = CocoTruth(dataset).figures(results, task)
        assert_same(figures, pycocotools_evaluation(dataset, results, task))


@pytest.mark.needs_shared
@pytest.mark.parametrize("task", TASKS)
def test_all_numbers_on_coco(shared: Path, task: Task) -> None:
    """Real polygons and crowds; the annotations themselves, moved by some pixels, are found."""
    folder = shared / "data" / "coco_tiny" / "coco" / "annotations"
    dataset = json.loads((folder / "instances_val2017.json").read_text())
    truth = COCO()
    truth.dataset = copy.deepcopy(dataset)
    truth.createIndex()
    rng = np.random.default_rng(0)
    results = []
    for annotation in truth.dataset["annotations"]:
        shift = rng.integers(-4, 5, 2)
        mask = np.roll(truth.annToMask(annotation), shift, (0, 1))
        rle = mask_util.encode(np.asfortranarray(mask))
        x, y, width, height = annotation["bbox"]
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": float(rng.random()),
                "bbox": [x + float(shift[1]), y + float(shift[0]), width, height],
                "segmentation": {**rle, "counts": rle["counts"].decode()},
            }
        )
    assert any(annotation["iscrowd"] for annotation in dataset["annotations"])
    figures = CocoTruth(dataset).figures(results, task)
    assert 0.2 < figures.stats[0] < 0.9
    assert_same(figures, pycocotools_evaluation(dataset, results, task))


def test_the_cases_are_not_trivial() -> None:
    """Else their equality would say little."""
    stats = np.array([pycocotools_evaluation(*random_case(i), "segm").stats for i in range(30)])
    assert ((stats > 0) & (stats < 1)).sum(axis=0).min() >= 3
    assert -1 in stats


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "ids",
    [
        {"image": lambda number: f"{number:09}.jpg"},
        {"image": lambda number: 2**60 + number},
        {"category": lambda number: 2**60 + number},
        {"annotation": lambda number: -number},
        {"annotation": lambda number: 2**60 + number},
    ],
    ids=["text", "beyond floats", "categories beyond floats", "negative", "annotations"],
)
def test_ids_of_any_kind(backend: Backend, ids: dict[str, Any], task: Task) -> None:
    dataset, results = random_case(RICH)
    assert min(entry["id"] for entry in dataset["annotations"]) > 0
    wanted = CocoTruth(dataset).figures(results, task, backend=PYCOCOTOOLS)
    assert 0 < wanted.stats[0] < 1
    dataset, results = changed_ids((dataset, results), **ids)
    figures = CocoTruth(dataset).figures(results, task, backend=backend)
    assert_same(figures, wanted)


@pytest.mark.parametrize("task", TASKS)
def test_sides_with_a_decimal_point(backend: Backend, task: Task) -> None:
    dataset, results = random_case(RICH)
    wanted = CocoTruth(dataset).figures(results, task, backend=backend)
    for image in dataset["images"]:
        image.update(height=float(image["height"]), width=float(image["width"]))
    assert_same(CocoTruth(dataset).figures(results, task, backend=backend), wanted)


@pytest.fixture
def perfect() -> Case:
    """One image with one object, which is found."""
    rle = {"size": [10, 10], "counts": "0T3"}
    box = [0.0, 0.0, 10.0, 10.0]
    of_object = {"image_id": 1, "category_id": 1, "bbox": box, "segmentation": rle}
    dataset = {
        "images": [{"id": 1, "height": 10, "width": 10}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "area": 100.0, "iscrowd": 0, **of_object}],
    }
    return dataset, [{"score": 0.5, **of_object}]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_found_counts_and_the_summary_tells(
    backend: Backend, perfect: Case, task: Task
) -> None:
    dataset, results = perfect
    figures = CocoTruth(dataset).figures(results, task, backend=backend)
    expected = [1, 1, 1, 1, -1, -1, 1, 1, 1, 1, -1, -1]
    np.testing.assert_allclose(figures.stats, expected)
    assert figures.summary.count("\n") == 11
    assert "(AR) @[ IoU=0.50:0.95 | area= large | maxDets=100 ] = -1.000" in figures.summary


@pytest.mark.parametrize("task", TASKS)
def test_no_detection_at_all_is_a_recall_of_zero(
    backend: Backend, perfect: Case, task: Task
) -> None:
    figures = CocoTruth(perfect[0]).figures([], task, backend=backend)
    np.testing.assert_array_equal(figures.stats, [0, 0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1])


@pytest.mark.parametrize("task", TASKS)
def test_data_without_objects(backend: Backend, perfect: Case, task: Task) -> None:
    dataset, results = perfect
    dataset["annotations"] = []
    figures = CocoTruth(dataset).figures(results, task, backend=backend)
    assert (figures.stats == -1).all()


@pytest.mark.parametrize("task", TASKS)
def test_an_annotation_with_the_id_0_is_never_found_and_that_is_said(
    backend: Backend, perfect: Case, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    """So it is with pycocotools, too."""
    dataset, results = perfect
    dataset["annotations"][0]["id"] = 0
    figures = CocoTruth(dataset).figures(results, task, backend=backend)
    assert_same(figures, pycocotools_evaluation(dataset, results, task))
    assert figures.stats[0] == 0
    assert "id 0" in caplog.text


def test_a_limit_of_detections_per_image(backend: Backend) -> None:
    dataset, results = random_case(RICH)
    figures = CocoTruth(dataset).figures(results, "bbox", limits=(1, 2, 5), backend=backend)
    wanted = CocoTruth(dataset).figures(results, "bbox", limits=(1, 10, 100), backend=backend)
    assert figures.eval["recall"].shape == wanted.eval["recall"].shape
    assert 0 <= figures.stats[0] < wanted.stats[0]
    assert figures.stats[6] == wanted.stats[6]
    assert "maxDets=  5" in figures.summary


def test_some_of_the_images(backend: Backend) -> None:
    dataset, results = random_case(RICH)
    chosen = [image["id"] for image in dataset["images"]][:2]
    figures = CocoTruth(dataset).figures(results, "segm", image_ids=chosen, backend=backend)
    parts = {key: dataset[key] for key in ("categories", "annotations")}
    alone = {**parts, "images": [image for image in dataset["images"] if image["id"] in chosen]}
    results = [result for result in results if result["image_id"] in chosen]
    wanted = CocoTruth(alone).figures(results, "segm", backend=backend)
    assert_same(figures, wanted)


def test_nothing_that_was_given_is_changed(backend: Backend) -> None:
    case, untouched = random_case(RICH), random_case(RICH)
    for task in TASKS:
        CocoTruth(case[0]).figures(case[1], task, backend=backend)
    assert case == untouched


def test_results_on_other_data_are_refused(perfect: Case) -> None:
    dataset, results = perfect
    truth = CocoTruth(dataset)
    with pytest.raises(DataError, match="id 'elsewhere'"):
        truth.figures([{**results[0], "image_id": "elsewhere"}], "bbox")
    with pytest.raises(DataError, match="id 5"):
        truth.figures(results, "bbox", image_ids=[1, 5])


@pytest.mark.parametrize(("task", "key"), [("bbox", "area"), ("segm", "segmentation")])
def test_an_incomplete_annotation_is_named(perfect: Case, task: Task, key: str) -> None:
    dataset, results = perfect
    dataset["annotations"][0].update(id=77, image_id=1)
    del dataset["annotations"][0][key]
    with pytest.raises(DataError, match=f"annotation id 77 of image id 1 lacks '{key}'"):
        CocoTruth(dataset).figures(results, task)


# ------------------------------------------------------------------------------------- fallback


@pytest.fixture
def _without_faster_coco_eval(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def failing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "faster_coco_eval":
            raise ImportError("No module named 'faster_coco_eval'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing)
    default_backend.cache_clear()
    yield
    default_backend.cache_clear()


@pytest.mark.usefixtures("_without_faster_coco_eval")
def test_pycocotools_steps_in_with_one_warning(
    perfect: Case, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, results = perfect
    with caplog.at_level(logging.WARNING):
        figures = [CocoTruth(dataset).figures(results, task) for task in TASKS]
    assert default_backend() is PYCOCOTOOLS
    assert [figure.stats[0] for figure in figures] == pytest.approx([1, 1])
    (record,) = caplog.records
    assert "pip install faster-coco-eval" in record.message


# ------------------------------------------------------------------------------------ boundary AP


def boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask near its edge, by the definition in section 3 of arXiv 2103.16562: a
    square around the pixel, as far as the distance, is not all inside the mask."""
    distance = max(1, round(0.02 * float(np.hypot(*mask.shape))))
    padded = np.pad(mask, distance)
    side = 2 * distance + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return mask & ~windows.all(axis=(2, 3))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def one_object_case(truth: np.ndarray, found: np.ndarray) -> Case:
    def entry(mask: np.ndarray, **more: Any) -> dict[str, Any]:
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = mask_util.toBbox(rle).tolist()
        code = {"size": rle["size"], "counts": rle["counts"].decode()}
        return {"image_id": 5, "category_id": 2, "segmentation": code, "bbox": box, **more}

    height, width = truth.shape
    dataset = {
        "images": [{"id": 5, "height": height, "width": width}],
        "categories": [{"id": 2, "name": "c"}],
        "annotations": [entry(truth, id=1, area=int(truth.sum()), iscrowd=0)],
    }
    return dataset, [entry(found, score=0.5)]


def rectangle(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("size", "truth", "found"),
    [
        ((100, 100), (20, 20, 60, 60), (20, 20, 60, 60)),
        ((100, 100), (20, 20, 60, 60), (20, 21, 60, 61)),
        ((100, 100), (20, 20, 60, 60), (20, 22, 61, 62)),
        ((100, 100), (20, 20, 90, 90), (21, 21, 89, 90)),
        ((100, 100), (0, 0, 100, 70), (0, 0, 100, 72)),  # the image's border is an edge too
        ((300, 400), (50, 50, 250, 350), (53, 53, 250, 350)),
        ((20, 20), (2, 2, 18, 18), (2, 2, 17, 18)),  # the distance is less than a pixel
        ((100, 100), (20, 20, 24, 60), (20, 20, 24, 53)),  # all is boundary
    ],
)
def test_boundary_ap_is_that_of_the_paper(
    size: tuple[int, int], truth: tuple[int, ...], found: tuple[int, ...]
) -> None:
    pytest.importorskip("faster_coco_eval")
    first, second = rectangle(size, *truth), rectangle(size, *found)
    lower = min(overlap(first, second), overlap(boundary(first), boundary(second)))
    thresholds = np.linspace(0.5, 0.95, 10)
    assert np.abs(thresholds - lower).min() > 1e-6  # no rounding decides
    dataset, results = one_object_case(first, second)
    figures = CocoTruth(dataset).figures(results, "boundary")
    assert figures.stats[0] == pytest.approx((thresholds < lower).mean())


def test_boundary_by_hand() -> None:
    # A ring of 3 pixels (2 % of a diagonal of 141) around 40 x 40 has 1600 - 34 * 34 = 444 pixels.
    ring = boundary(rectangle((100, 100), 20, 20, 60, 60))
    assert ring.sum() == 444
    # The same one 1 to the right shares 3 + 3 rows of 39, and in 34 rows 2 + 2 pixels.
    other = boundary(rectangle((100, 100), 20, 21, 60, 61))
    assert (ring & other).sum() == 6 * 39 + 34 * 4
    assert overlap(ring, other) == pytest.approx(370 / 518)


@pytest.mark.parametrize("seed", [*range(30), RICH])
def test_boundary_ap_leaves_out_masks_that_cannot_count(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_coco_eval")
    dataset, results = random_case(seed)
    figures = CocoTruth(dataset).figures(results, "boundary")
    assert figures.stats[0] <= CocoTruth(dataset).figures(results, "segm").stats[0] + 1e-12
    monkeypatch.setattr("instseg_d2.coco_metrics.LOWEST_THRESHOLD", 0.0)
    assert_same(figures, CocoTruth(dataset).figures(results, "boundary"))


def test_pycocotools_has_no_boundary_ap() -> None:
    dataset, results = random_case(RICH)
    with pytest.raises(DependencyError, match="faster-coco-eval"):
        CocoTruth(dataset).figures(results, "boundary", backend=PYCOCOTOOLS)
