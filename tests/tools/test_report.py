"""The program as a user runs it, and its file in a real browser."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.chromium import check_on_phone, console_lines, open_page
from tests.report_cases import jittered_results, square_case
from tests.training_runs import FIND_SOMETHING, train_net
from tools.report import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Own data with results; the current folder."""
    content, results = square_case()
    (tmp_path / "pictures").mkdir()
    for image in content["images"]:
        path = tmp_path / "pictures" / image["file_name"]
        cv2.imwrite(str(path), np.full((80, 100, 3), 120, np.uint8))
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    return tmp_path


OWN = ("--results", "results.json", "--json", "annotations.json")


def test_own_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*OWN, "--images", "pictures", "--output", "out/my report.html", "--min-score", "0.5"])
    assert "Wrote out/my report.html" in capsys.readouterr().out
    page = folder / "out" / "my report.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 2
    assert "out/my report.html&#39; --min-score 0.5" in text
    opened = open_page(page, folder / "profile")
    assert console_lines(opened.log) == []
    assert '<button type="button">AP50</button>' in opened.dom


def test_page_fits_a_phone_whatever_the_names(tmp_path: Path) -> None:
    content, results = square_case()
    for entry in content["categories"]:
        entry["name"] = f"{entry['name']}_of_a_very_long_name_that_has_no_spaces_to_break_a_line_at"
    for image in content["images"]:
        image["file_name"] = f"{'a_long_folder/' * 5}{'picture' * 12}{image['id']}.png"
        path = tmp_path / "pictures" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(0).integers(256, size=(80, 100, 3)))
    for name, value in (("annotations", content), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    named = (("results", "results.json"), ("json", "annotations.json"), ("images", "pictures"))
    page = tmp_path / "report.html"
    options = [part for option, name in named for part in (f"--{option}", str(tmp_path / name))]
    main([*options, "--output", str(page), "--no-boundary"])
    check_on_phone(page, tmp_path / "phone")


def test_mistakes_end_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.json").write_text("[{")
    mistakes = {
        "bad.json cannot be read": ("--results", "bad.json", "--json", "annotations.json"),
        "absent.json": ("--results", "results.json", "--json", "absent.json"),
        "not registered": ("--results", "results.json", "--dataset", "no_such_data"),
        "give --dataset NAME": ("--results", "results.json"),
        "no such folder": ("--run", "absent"),
        "Evaluate first": ("--run", "."),
        "tools/evaluate_proposals.py": (
            *OWN, "--config-file", "quickstart/deepmask_shapes",
        ),
        "Did you mean": ("--results", "results.json", "--dataset", "shapes_vall"),
    }  # fmt: skip
    for expected, args in mistakes.items():
        with pytest.raises(SystemExit) as stop:
            main(list(args))
        assert str(stop.value.code).startswith("error: "), args
        assert expected in str(stop.value.code)
    for args in ([], ["--results", "results.json", "--images", "pictures"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2
    assert not list(folder.glob("*.html"))


@pytest.mark.slow
def test_after_an_evaluation(repo: Path, tmp_path: Path, tiny_overrides: list[str]) -> None:
    done = train_net(
        repo, tmp_path, "--config-file", "quickstart/sparseinst_shapes",
        *tiny_overrides, *FIND_SOMETHING, "OUTPUT_DIR", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, str(repo / "tools" / "report.py"), "--run", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Wrote out/report.html" in done.stdout
    page = tmp_path / "out" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "SparseInst on shapes_val" in text
    assert "<dt>Run time</dt>" in text
    assert "Training loss" in text
    assert "MODEL.SPARSE_INST.DECODER.NUM_MASKS" in text
    assert console_lines(open_page(page, tmp_path / "profile").log) == []


@pytest.mark.needs_shared
def test_real_data(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "coco_tiny" / "coco"
    annotations = folder / "annotations" / "instances_val2017.json"
    results = jittered_results(json.loads(annotations.read_text()), np.random.default_rng(0))
    (tmp_path / "results.json").write_text(json.dumps(results))
    main(
        [
            *("--results", str(tmp_path / "results.json"), "--json", str(annotations)),
            *("--images", str(folder / "val2017"), "--output", str(tmp_path / "report.html")),
        ]
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<img ") == 12
    assert len(text) < 3e6
