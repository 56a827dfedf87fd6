"""LVIS's figures, against the package ``lvis``."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instseg_d2 import lvis_metrics
from instseg_d2.coco_metrics import PYCOCOTOOLS
from instseg_d2.errors import DataError, DependencyError
from instseg_d2.lvis_metrics import LvisFigures, LvisTruth
from tests.lvis_cases import RICH, lvis_evaluation, random_lvis_case

TASKS = ("bbox", "segm")


def assert_same(figures: LvisFigures, wanted: Any) -> None:
    np.testing.assert_allclose(figures.precision, wanted.eval["precision"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(figures.recall, wanted.eval["recall"], rtol=0, atol=1e-12)
    names = [name.split("@")[0] for name in wanted.results]
    assert list(figures.stats) == names
    values = list(wanted.results.values())
    np.testing.assert_allclose(list(figures.stats.values()), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", [*range(30), RICH])
def test_all_numbers_are_those_of_lvis(tmp_path: Path, seed: int, task: Any) -> None:
    dataset, results = random_lvis_case(seed)
    before = copy.deepcopy((dataset, results))
    figures = LvisTruth(dataset).lvis_figures(results, task)
    assert (dataset, results) == before
    assert_same(figures, lvis_evaluation(dataset, results, task, tmp_path))


@pytest.mark.parametrize("limit", [1, 7])
def test_the_best_detections_of_an_image_count(tmp_path: Path, limit: int) -> None:
    dataset, results = random_lvis_case(RICH)
    figures = LvisTruth(dataset).lvis_figures(results, "bbox", limit=limit)
    assert_same(figures, lvis_evaluation(dataset, results, "bbox", tmp_path, limit))


@pytest.mark.parametrize("task", TASKS)
def test_categories_are_evaluated_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    dataset, results = random_lvis_case(RICH)
    assert len(dataset["categories"]) > 2
    whole = LvisTruth(dataset).lvis_figures(results, task)
    assert all(0 < value < 1 for value in whole.stats.values()), whole.stats
    monkeypatch.setattr(lvis_metrics, "CATEGORIES_AT_ONCE", 2)
    parts = LvisTruth(dataset).lvis_figures(results, task)
    np.testing.assert_array_equal(parts.precision, whole.precision)
    np.testing.assert_array_equal(parts.recall, whole.recall)
    assert parts.stats == whole.stats


@pytest.mark.parametrize("without", ["results", "objects"])
def test_nothing_found_and_nothing_to_be_found(without: str) -> None:
    dataset, results = random_lvis_case(RICH)
    if without == "results":
        results = []
    else:
        dataset["annotations"] = []
    figures = LvisTruth(dataset).lvis_figures(results, "segm")
    assert set(figures.stats.values()) == {0.0 if without == "results" else -1.0}


@pytest.mark.parametrize(
    ("entries", "key", "message"),
    [
        ("images", "neg_category_ids", "image id .* lacks 'neg_category_ids'"),
        ("images", "not_exhaustive_category_ids", "lacks 'not_exhaustive_category_ids'"),
        ("categories", "frequency", "category id .* lacks 'frequency', .* 'coco'"),
    ],
)
def test_what_lvis_needs_is_named(entries: str, key: str, message: str) -> None:
    dataset, _ = random_lvis_case(RICH)
    del dataset[entries][0][key]
    with pytest.raises(DataError, match=message):
        LvisTruth(dataset)


def test_unknown_frequencies_are_named() -> None:
    dataset, _ = random_lvis_case(RICH)
    dataset["categories"][0]["frequency"] = "often"
    with pytest.raises(DataError, match="'frequency' is 'often'; LVIS knows 'r', 'c' and 'f'"):
        LvisTruth(dataset)


def test_pycocotools_does_not_know_lvis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvis_metrics, "default_backend", lambda: PYCOCOTOOLS)
    dataset, results = random_lvis_case(RICH)
    with pytest.raises(DependencyError, match="pip install"):
        LvisTruth(dataset).lvis_figures(results, "bbox")
