import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.rle_masks import RLEMasks
from sharpmask_d2.recall import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RecallCounts,
    area_under_curve,
    finders,
)
from tests.sharpmask_d2.recall_cases import (
    MAX_DETS,
    coco_recalls,
    our_recall,
    random_content,
    random_proposals,
)

LIMITS = (10, 100, 1000)


def ranks(ious: list[list[float]], threshold: float) -> list[int]:
    """Who finds each object of an image, at one threshold."""
    index = int(np.abs(IOU_THRESHOLDS - threshold).argmin())
    matrix = np.array(ious)
    return finders(matrix, np.ones((1, matrix.shape[1]), bool))[0, index].tolist()


# --------------------------------------------------------------------------------- by hand


def test_the_best_proposal_takes_what_it_overlaps_most() -> None:
    ious = [[0.91, 0.72], [0.96, 0.0], [0.3, 0.56]]
    assert ranks(ious, 0.5) == [0, 2]
    assert ranks(ious, 0.55) == [0, 2]
    # The first proposal would do for the second object, too, but finds only one.
    assert ranks(ious, 0.6) == [0, 3]
    assert ranks(ious, 0.9) == [0, 3]
    assert ranks(ious, 0.95) == [1, 3]


def test_a_later_proposal_gets_what_is_left() -> None:
    assert ranks([[0.9, 0.8], [0.9, 0.8]], 0.5) == [0, 1]
    assert ranks([[0.9, 0.8], [0.9, 0.4], [0.1, 0.8]], 0.5) == [0, 2]


def test_of_equal_overlaps_the_last_object_is_taken_as_pycocotools_does() -> None:
    assert ranks([[0.7, 0.7, 0.7], [0.0, 0.7, 0.7]], 0.7) == [2, 1, 0]


def test_a_threshold_is_reached_by_being_equal() -> None:
    assert ranks([[0.5]], 0.5) == [0]
    assert ranks([[float(np.nextafter(0.5, 0))]], 0.5) == [1]
    assert ranks([[0.95]], 0.95) == [0]


def test_objects_that_do_not_take_part_are_neither_found_nor_in_the_way() -> None:
    ious = np.array([[0.9, 0.8]])
    found = finders(ious, np.array([[True, True], [False, True], [False, False]]))
    assert found[:, 0].tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (3, 0)])
def test_nothing_to_match(shape: tuple[int, int]) -> None:
    found = finders(np.zeros(shape), np.ones((1, shape[1]), bool))
    assert found.shape == (1, len(IOU_THRESHOLDS), shape[1])
    assert (found == shape[0]).all()


def test_average_recall_by_hand() -> None:
    counts = RecallCounts.empty(4)
    # The small object is found at 3 thresholds by the third proposal, the large one at 8 by the
    # first; the medium one is missed.
    ious = np.array([[0.0, 0.86, 0.1], [0.2, 0.0, 0.0], [0.61, 0.0, 0.0]])
    counts.add_image(ious, np.array([100.0, 10000.0, 2000.0]))
    counts.add_image(np.zeros((0, 1)), np.array([50.0]))  # an image without proposals
    assert counts.objects.tolist() == [4, 2, 1, 1]
    assert counts.average_recalls() == pytest.approx([0.2, 0.2, 0.2 + 0.3 / 4, 0.2 + 0.3 / 4])
    assert counts.average_recalls("small") == pytest.approx([0, 0, 0.15, 0.15])
    assert counts.average_recalls("medium") == pytest.approx([0, 0, 0, 0])
    assert counts.average_recalls("large") == pytest.approx([0.8] * 4)
    assert counts.recalls("large")[:, 0].tolist() == [1] * 8 + [0] * 2


def test_proposals_beyond_the_depth_find_nothing() -> None:
    counts = RecallCounts.empty(2)
    counts.add_image(np.array([[0.0], [0.0], [1.0]]), np.array([100.0]))
    assert counts.average_recalls().tolist() == [0, 0]


def test_without_objects_there_is_no_recall() -> None:
    counts = RecallCounts.empty(3)
    counts.add_image(np.zeros((2, 0)), np.zeros(0))
    assert np.isnan(counts.average_recalls()).all()
    assert math.isnan(area_under_curve(counts.average_recalls()))


# --------------------------------------------------------------------------- area under the curve


def test_area_under_the_curve_by_hand() -> None:
    counts = np.arange(1, 1001)
    assert area_under_curve(np.full(1000, 0.3)) == pytest.approx(0.3)
    # Straight over the logarithm, so exact.
    assert area_under_curve(np.log10(counts) / 3) == pytest.approx(0.5)
    # Everything from the tenth proposal on: two decades of three, and half of the step before.
    step = (2 + math.log10(10 / 9) / 2) / 3
    assert area_under_curve((counts >= 10).astype(float)) == pytest.approx(step)


# ------------------------------------------------------------------------------- as pycocotools


@pytest.mark.parametrize("seed", range(200))
def test_every_recall_is_that_of_pycocotools(seed: int) -> None:
    generator = np.random.default_rng(seed)
    content = random_content(generator)
    proposals = random_proposals(generator, content)
    recall, truth = our_recall(content, proposals)
    results = recall.results(truth)
    expected = coco_recalls(copy.deepcopy(content), proposals)
    for task, counts in results.items():
        for index, area in enumerate(AREA_RANGES):
            ours = counts.recalls(area)[:, np.array(MAX_DETS) - 1]
            np.testing.assert_allclose(ours, expected[task][:, index], rtol=0, atol=1e-12)


def test_every_recall_on_coco_is_that_of_pycocotools(shared: Path) -> None:
    folder = shared / "data" / "coco_tiny" / "coco" / "annotations"
    content = json.loads((folder / "instances_val2017.json").read_text())
    proposals = [moved_objects(content, image) for image in content["images"]]
    recall, truth = our_recall(content, proposals, depth=1000)
    results = recall.results(truth)
    expected = coco_recalls(content, proposals, LIMITS)
    for task, counts in results.items():
        assert 0.1 < counts.average_recalls()[9] < counts.average_recalls()[99] < 0.9
        for index, area in enumerate(AREA_RANGES):
            ours = counts.recalls(area)[:, np.array(LIMITS) - 1]
            np.testing.assert_allclose(ours, expected[task][:, index], rtol=0, atol=1e-12)


def moved_objects(content: dict[str, Any], image: dict[str, Any]) -> ImageProposals:
    """Proposals that are the image's objects, crowds aside, moved and scaled at random."""
    generator = np.random.default_rng(image["id"])
    size = (image["height"], image["width"])
    rles = []
    for annotation in content["annotations"]:
        if annotation["image_id"] != image["id"] or annotation["iscrowd"]:
            continue
        polygons = [np.array(polygon).reshape(-1, 2) for polygon in annotation["segmentation"]]
        centre = polygons[0].mean(axis=0)
        for _ in range(6):
            scale, shift = np.exp(generator.normal(0, 0.2, 2)), generator.normal(0, 6, 2)
            moved = [((part - centre) * scale + centre + shift).ravel() for part in polygons]
            parts = mask_util.frPyObjects([part.tolist() for part in moved], *size)
            rles.append(mask_util.merge(parts))
    boxes = RLEMasks(rles, size).bounding_boxes().tensor.numpy()
    return ImageProposals(image["id"], boxes, generator.normal(size=len(rles)), rles)


def test_parts_of_a_data_set_add_up() -> None:
    generator = np.random.default_rng(0)
    whole, parts = RecallCounts.empty(20), [RecallCounts.empty(20) for _ in range(2)]
    for number in range(10):
        ious, areas = generator.random((15, 6)), generator.uniform(0, 20000, 6)
        whole.add_image(ious, areas)
        parts[number % 2].add_image(ious, areas)
    parts[0] += parts[1]
    np.testing.assert_array_equal(parts[0].found, whole.found)
    np.testing.assert_array_equal(parts[0].objects, whole.objects)
    assert whole.found.sum() > 100
