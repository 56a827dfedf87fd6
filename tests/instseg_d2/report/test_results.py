"""Files that are no results, or not of this data set, are refused with the reason."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from instseg_d2.errors import DataError
from instseg_d2.report.results import read_results
from instseg_d2.report.truth import Truth
from tests.report_cases import square_case


def truth() -> Truth:
    return Truth("my data", square_case()[0], None, True)


def read(tmp_path: Path, content: Any) -> Any:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_results(str(path), truth())


def changed(**more: Any) -> list[dict[str, Any]]:
    """Results whose third lacks the keys that are None, and has the others."""
    results = copy.deepcopy(square_case()[1])
    results[2] = {key: v for key, v in {**results[2], **more}.items() if v is not None}
    return results


def test_good_results(tmp_path: Path) -> None:
    results = read(tmp_path, square_case()[1])
    assert len(results.entries) == 6
    assert results.has_masks
    assert results.remarks == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ({"images": []}, "top level is a dict"),
        (["x"], "no category_id"),
        (changed(image_id=None), "result number 2 lacks image_id"),
        (changed(image_id=7), "1 image ids that my data does not have, such as 7"),
        (changed(image_id="1"), "1 image ids that my data does not have, such as '1'"),
        (changed(image_id=[1]), "neither a number nor a text"),
        (changed(score=float("nan")), "the score nan"),
        (changed(score="high"), "the score 'high'"),
        (changed(score=10**400), "no finite number"),
        (changed(bbox=[1, 2, 3]), "expected [x, y, width, height]"),
        (changed(bbox=[1, 2, 3, float("inf")]), "expected [x, y, width, height]"),
        (changed(segmentation=None), "some results have a segmentation"),
        (changed(bbox=None, segmentation=None), "neither bbox nor segmentation"),
        (changed(segmentation={"size": [9, 9], "counts": "0"}), "image id 1"),
        (changed(segmentation={"size": [80, 100], "counts": "abc"}), "image id 1"),
        (changed(segmentation={"counts": "0"}), "image id 1"),
        (changed(segmentation=[[1, 2, "x"]]), "image id 1"),
        ([{**r, "category_id": 77} for r in changed()], "none of its category ids (77)"),
        ([{k: v for k, v in r.items() if k != "category_id"} for r in changed()], "proposals"),
        (changed()[:1] * 101, "tools/evaluate_proposals.py"),
    ],
)
def test_bad_results_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert "results.json" in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_results(str(tmp_path / "absent.json"), truth())
    with pytest.raises(DataError, match="evaluate_proposals"):
        read_results(str(tmp_path / "boxes.pkl"), truth())


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ([], "found nothing"),
        (changed(category_id=5), "1 results have a category id that the data set does not have"),
        (changed() + changed()[:2], "2 results occur more than once"),
        (changed(score=-3e300), "not from 0 to 1"),
        (changed()[:2], "All results are of one class, cat"),
    ],
)
def test_oddities_are_remarked(tmp_path: Path, content: Any, remark: str) -> None:
    assert remark in " ".join(read(tmp_path, content).remarks)


def test_polygons_and_uncompressed_codes_are_results_too(tmp_path: Path) -> None:
    square = [50, 0, 70, 0, 70, 20, 50, 20]
    runs = [50 * 80, *([20, 60] * 19), 20, 80 * 100 - 50 * 80 - 19 * 80 - 20]
    for segmentation in ([square], {"size": [80, 100], "counts": runs}):
        results = read(tmp_path, changed(segmentation=segmentation, bbox=None))
        assert results.entries[2]["bbox"] == [50, 0, 20, 20]
        assert results.entries[2]["segmentation"] == square_case()[1][2]["segmentation"]
