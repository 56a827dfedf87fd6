"""Whole reports in the cases where something is missing, odd or hostile."""

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from instseg_d2.coco_metrics import PYCOCOTOOLS
from instseg_d2.errors import DataError
from instseg_d2.report.build import ReportOptions, build_report
from instseg_d2.report.error_sections import shown_matrix
from instseg_d2.report.matching import match_images
from instseg_d2.report.pictures import COLOURS, draw_outcome
from instseg_d2.report.results import read_results
from instseg_d2.report.run_folder import find_run, read_run_time, read_training, thinned
from instseg_d2.report.truth import file_truth, registered_truth
from tests.instseg_d2.test_html_page import HOSTILE, Outline
from tests.report_cases import square_case


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the images of the case and its files."""
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((80, 100, 3), 120, np.uint8))
    write(tmp_path, *square_case())
    return tmp_path


def write(folder: Path, content: Any, results: Any) -> None:
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))


def report(folder: Path, *, images: bool = True, **options: Any) -> str:
    """The report's text, checked to be well-formed."""
    truth = file_truth(str(folder / "annotations.json"), str(folder) if images else None)
    results = read_results(str(folder / "results.json"), truth)
    text = build_report(truth, results, ReportOptions(**options))
    Outline(text)
    return text


def texts(text: str) -> str:
    return " ".join(Outline(text).texts)


def test_everything_is_there(folder: Path) -> None:
    text = report(folder)
    for title in ("Summary", "Average precision", "Classes", "Precision and recall", "Scores",
                  "Errors", "Pictures", "Data", "Run"):  # fmt: skip
        assert f">{title}</h2>" in text
    for name in ("Mask AP", "Box AP", "Boundary AP"):
        assert f"<dt>{name}</dt>" in text
    assert text.count("<img ") == 2
    assert "nan" not in texts(text).lower().split()


def test_pictures_show_outcomes_in_their_colours(folder: Path) -> None:
    truth = file_truth(str(folder / "annotations.json"), str(folder))
    results = read_results(str(folder / "results.json"), truth)
    image = next(iter(match_images(truth, results)))
    html = draw_outcome(image, truth, 0.85)
    assert "1 found, 0 false, 1 missed (? dog)" in html
    pixels = decoded(html)
    height, width = pixels.shape[:2]
    middle = pixels[int(height * 0.2), int(width * 0.02)] / 255  # in the object A
    expected = 0.55 * 120 / 255 + 0.45 * np.array(COLOURS["found"])
    np.testing.assert_allclose(middle, expected, atol=0.06)


def decoded(html: str) -> np.ndarray:
    found = re.search(r"base64,([^\"]+)", html)
    assert found is not None
    data = np.frombuffer(base64.b64decode(found.group(1)), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1]


def test_hostile_names_stay_text(folder: Path) -> None:
    plain = [tag for tag, _ in Outline(report(folder)).elements]
    content, results = square_case()
    for category in content["categories"]:
        category["name"] = HOSTILE
    write(folder, content, results)
    text = report(folder, command=HOSTILE)
    assert [tag for tag, _ in Outline(text).elements] == plain
    assert texts(text).count(HOSTILE) > 5


def test_no_detections(folder: Path) -> None:
    write(folder, square_case()[0], [])
    text = report(folder)
    assert "found nothing at all" in text
    assert "2 missed" in text or "1 missed" in text


def test_no_ground_truth(folder: Path) -> None:
    content, results = square_case()
    write(folder, {**content, "annotations": []}, results)
    text = report(folder)
    assert "The annotations have no objects" in text
    assert "0 found, 4 false, 0 missed" in text


def test_neither_objects_nor_detections(folder: Path) -> None:
    write(folder, {**square_case()[0], "annotations": []}, [])
    assert "No picture could be drawn" in report(folder)


def test_boxes_only(folder: Path) -> None:
    content, results = square_case()
    for result in results:
        del result["segmentation"]
    write(folder, content, results)
    text = report(folder)
    assert "boxes and no masks" in text
    assert "<dt>Mask AP</dt>" not in text
    assert "<dt>Box AP</dt>" in text
    assert text.count("<img ") == 2


def test_annotations_without_masks(folder: Path) -> None:
    content, results = square_case()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    write(folder, content, results)
    text = report(folder)
    assert "annotations lack masks" in text
    assert "<dt>Box AP</dt>" in text


def test_missing_and_damaged_image_files(folder: Path) -> None:
    (folder / "1.png").unlink()
    assert report(folder).count("<img ") == 1
    (folder / "2.png").write_bytes(b"no image")
    text = report(folder)
    assert text.count("<img ") == 0
    assert "1.png (image id 1) does not exist" in text
    assert "cannot be read" in text


def test_unknown_image_folder_and_no_pictures_wanted(folder: Path) -> None:
    assert "folder of the images is not known" in report(folder, images=False)
    assert "made without pictures" in report(folder, num_pictures=0)


def test_without_boundary_ap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<dt>Boundary AP</dt>" not in report(folder, boundary=False)
    monkeypatch.setattr("instseg_d2.coco_metrics.default_backend", lambda: PYCOCOTOOLS)
    text = report(folder)
    assert "<dt>Boundary AP</dt>" not in text
    assert "pip install faster-coco-eval" in text


def test_annotations_that_cannot_be_used(folder: Path) -> None:
    content, results = square_case()
    for key in ("area", "bbox"):
        broken = copy.deepcopy(content)
        del broken["annotations"][1][key]
        write(folder, broken, results)
        with pytest.raises(DataError, match=rf"annotation id 2 of image id 1.*{key}"):
            report(folder)
    write(folder, {key: content[key] for key in ("images", "categories")}, results)
    with pytest.raises(DataError, match="no list 'annotations'"):
        report(folder)
    with pytest.raises(DataError, match="not registered"):
        registered_truth("no_such_data")


def test_large_matrices_keep_what_is_confused() -> None:
    matrix = np.diag([5] * 30 + [0])
    matrix[4, 7] = 2
    matrix[30, 12] = 1
    small, names = shown_matrix(matrix, [str(i) for i in range(30)], 3)
    assert small.shape == (5, 5)
    assert small.sum() == matrix.sum()
    assert {"4", "7", "27 others"} <= set(names)
    assert small[names.index("4"), names.index("7")] == 2
    same, all_names = shown_matrix(matrix[:4, :4], ["a", "b", "c"], 3)
    assert same.shape == (4, 4)
    assert all_names == ["a", "b", "c"]


# ------------------------------------------------------------------------------------ run folders

LOG = """\
Total inference time: 0:00:16.235184 (0.083257 s / iter per device, on 1 devices)
Total inference pure compute time: 0:00:15 (0.077090 s / iter per device, on 1 devices)
something else
Total inference time: 0:00:08.1 (0.04 s / iter per device, on 2 devices)
Total inference pure compute time: 0:00:07 (0.035 s / iter per device, on 2 devices)
"""


def test_run_time_is_that_of_the_last_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(LOG)
    time = read_run_time(path)
    assert time is not None
    assert (time.total, time.network, time.devices) == (0.04, 0.035, 2)
    path.write_text("nothing")
    assert read_run_time(path) is None


def test_training_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = [{"iteration": i, "loss_a": 1.0, "total_loss": 2.0, "segm/AP": i} for i in range(1000)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    losses, precisions = read_training(path)
    assert list(losses) == ["total_loss", "loss_a"]
    iterations, values = thinned(precisions["segm/AP"])
    assert len(values) == 200
    assert values.mean() == pytest.approx(499.5)
    np.testing.assert_array_equal(iterations, values)
    path.unlink()
    assert read_training(path) == ({}, {})


def test_run_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_run(tmp_path / "absent")
    assert find_run(tmp_path).results is None


def test_scores_that_are_no_probabilities(folder: Path) -> None:
    content, results = square_case()
    results[0]["score"], results[1]["score"] = 1e300, -1e300
    write(folder, content, results)
    text = report(folder)
    assert "not from 0 to 1" in text
    assert "e+" not in "".join(re.findall(r'points="([^"]*)"', text))
