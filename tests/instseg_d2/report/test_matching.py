"""Matching against COCO's evaluation, errors and statistics against what was counted by hand."""

import numpy as np
import pytest

from instseg_d2.coco_metrics import CocoTruth
from instseg_d2.report.matching import FALSE, IGNORED, TRUE, ImageMatches, match_images
from instseg_d2.report.results import Results
from instseg_d2.report.statistics import Statistics, calibrate
from instseg_d2.report.truth import Truth
from tests.coco_cases import RICH, random_case
from tests.report_cases import Entry, square_case


def matches_of(content: dict, results: list[Entry], *, masks: bool = True) -> list[ImageMatches]:
    truth = Truth("data", content, None, True)
    return list(match_images(truth, Results("r.json", results, masks)))


def statistics_of(
    content: dict, results: list[Entry], min_score: float = 0.3, *, masks: bool = True
) -> Statistics:
    statistics = Statistics(len(content["categories"]), min_score)
    for image in matches_of(content, results, masks=masks):
        statistics.add(image)
    return statistics


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("seed", [*range(40), RICH])
def test_as_many_are_true_as_in_cocos_evaluation(seed: int, masks: bool) -> None:
    content, results = random_case(seed)
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number  # 0 would never be found
        annotation["area"] = min(annotation["area"], 1e10)  # larger ones do not count
    figures = CocoTruth(content).figures(results, "segm" if masks else "bbox")
    statistics = statistics_of(content, results, 0.0, masks=masks)
    recall = figures.eval["recall"][0, :, 0, -1]
    found = statistics.confusion.diagonal()[:-1]
    expected = np.where(recall < 0, 0, recall * statistics.objects)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_outcomes_and_kinds_by_hand() -> None:
    first, second = matches_of(*square_case())
    assert first.outcomes.tolist() == [TRUE, FALSE, FALSE, FALSE]
    assert [first.error_kind(i) for i in (1, 2, 3)] == ["duplicate", "wrong class", "background"]
    assert second.outcomes.tolist() == [FALSE, IGNORED]
    assert second.error_kind(0) == "poor mask"
    assert first.missed(0.3).tolist() == [False, True]
    assert first.missed(0.95).tolist() == [True, True]
    assert second.missed(0.3).tolist() == [True, False]  # a crowd is not to be found


def test_quality_by_hand() -> None:
    first, second = matches_of(*square_case())
    assert first.quality(0.3) == pytest.approx(1 / (1 + 3 / 2 + 1 / 2))
    assert first.quality(0.85) == pytest.approx(1 / (1 + 1 / 2))
    assert second.quality(0.3) == 0
    content = {"images": [{"id": 1, "height": 5, "width": 5}], "categories": [], "annotations": []}
    assert np.isnan(matches_of(content, [])[0].quality(0.3))


def test_confusion_by_hand() -> None:
    statistics = statistics_of(*square_case())
    assert statistics.confusion.tolist() == [
        [1, 0, 0, 1],  # A found, C missed
        [1, 0, 0, 0],  # B taken for a cat
        [0, 0, 0, 0],
        [3, 0, 0, 0],  # duplicate, background, poor mask
    ]
    assert statistics.confused(5) == [(1, 0, 1)]
    assert dict(statistics.errors) == {
        "duplicate": 1, "wrong class": 1, "poor mask": 1, "wrong and poor": 0, "background": 1,
    }  # fmt: skip
    assert statistics.objects.tolist() == [2, 1, 0]
    assert statistics.detections.tolist() == [5, 0, 0]
    assert statistics.crowds == 1


def test_rows_of_the_confusion_count_all_objects_and_columns_all_detections() -> None:
    for seed in range(20):
        statistics = statistics_of(*random_case(seed))
        np.testing.assert_array_equal(statistics.confusion[:-1].sum(axis=1), statistics.objects)
        np.testing.assert_array_equal(
            statistics.confusion[:, :-1].sum(axis=0), statistics.detections
        )


def test_calibration_by_hand() -> None:
    scores = np.array([0.95, 0.85, 0.85, 0.2, 1.0])
    calibration = calibrate(scores, np.array([True, True, False, False, True]))
    assert calibration.counts.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 2, 2]
    assert calibration.precisions[8] == 0.5
    assert np.isnan(calibration.precisions[0])
    expected = (0.2 + 2 * 0.35 + 2 * 0.025) / 5
    assert calibration.error == pytest.approx(expected)
    assert np.isnan(calibrate(np.zeros(0), np.zeros(0, bool)).error)


def test_best_threshold_by_hand() -> None:
    best = statistics_of(*square_case()).best_threshold()
    assert best is not None
    assert best.threshold == 0.9
    assert (best.precision, best.recall) == (1, pytest.approx(1 / 3))
    assert best.f1 == pytest.approx(0.5)


def test_equal_scores_are_kept_or_left_out_together() -> None:
    content, results = square_case()
    for result in results:
        result["score"] = 0.5
    best = statistics_of(content, results).best_threshold()
    assert best is not None
    assert best.precision == pytest.approx(1 / 5)
