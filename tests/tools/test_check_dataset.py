"""The program, as a user gives it."""

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.chromium import check_on_phone, console_lines, open_page
from tests.coco_sample import coco
from tools.check_dataset import main

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_dataset.py"
SHAPES = ["DATASETS.SHAPES.NUM_TRAIN", "4", "DATASETS.SHAPES.NUM_VAL", "12",
          "DATASETS.SHAPES.IMAGE_SIZE", "64"]  # fmt: skip
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m$x^$ \ud800\n"


def status_of(*args):
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    return end.value.code


def write(folder, content):
    """Write annotations and images; the options that name them."""
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (12, 10), (90, 120, 60)).save(folder / "images" / name)
    return ["--json", folder / "a.json", "--images", folder / "images"]


@pytest.fixture
def data(tmp_path):
    return partial(write, tmp_path)


def hostile():
    content = coco()
    content["categories"][0]["name"] = HOSTILE
    content["categories"][1]["name"] = "long" * 30
    content["images"][1]["file_name"] = HOSTILE
    content["annotations"][1].update(category_id=HOSTILE, id=HOSTILE)
    content["annotations"][0]["bbox"] = [1, 1, 800, 1e308]
    return content


def test_the_program_writes_all_its_files_and_says_what_is_wrong(data, tmp_path):
    out = tmp_path / "new" / "out"
    content = coco()
    content["annotations"][0]["category_id"] = 99
    del content["annotations"][1]["area"]
    done = subprocess.run(
        [sys.executable, TOOL, *map(str, data(content)), "--output", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "annotation 101, image 11 (a.png): category_id 99 is not in the list" in done.stdout
    assert "annotation 102, image 11 (a.png): it lacks area" in done.stdout
    assert "2 images, " in done.stdout
    with (out / "problems.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((out / "report.json").read_text())
    assert len(rows) == len(report["problems"]) == sum(report["severities"].values())
    assert {"severity": "error", "code": "unknown-category"}.items() <= rows[1].items()
    assert report["statistics"]["images"] == 2
    assert Image.open(out / "statistics.png").width > 1000
    sheet = (out / "sheet.html").read_text()
    assert sheet.count('class="sample"') == 2
    assert 'href="#image-0"' in sheet
    assert "data:image/jpeg;base64," in sheet


def test_embedded_data_has_no_errors_or_warnings(capsys):
    status = status_of("--dataset", "shapes_val", "--strict", *SHAPES)
    out = capsys.readouterr().out
    assert status == 0, out
    assert "12 images" in out


def test_silenced_codes_and_exit_status(data, capsys):
    content = coco()
    content["annotations"][1]["category_id"] = 3  # twice the same object: a warning
    options = data(content)
    assert status_of(*options) == 0
    assert "duplicate-annotation" in capsys.readouterr().out
    assert status_of(*options, "--strict", "--ignore", "box-loose", "--ignore", "box-off-mask") == 1
    capsys.readouterr()
    silenced = ("--ignore", "duplicate-annotation", "--ignore", "box-loose")
    status_of(*options, *silenced, "--ignore", "box-off-mask", "--strict")
    assert "duplicate-annotation" not in capsys.readouterr().out


def test_problems_of_a_code_are_cut_and_counted(data, capsys):
    content = coco()
    for number in range(30):
        content["annotations"].append(
            {**content["annotations"][0], "id": 500 + number, "image_id": 77}
        )
    status_of(*data(content), "--most", 4)
    out = capsys.readouterr().out
    assert out.count("image_id 77 is not in the list") == 4
    assert "and 26 more" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "one of the arguments"),
        (["--json", "{tmp}/a.json"], "--images DIR, or --no-images"),
        (["--json", "{tmp}/none.json", "--no-images"], "none.json does not exist; check the path"),
        (["--json", "{tmp}/a.json", "--images", "{tmp}/none"], "none does not exist"),
        (["--json", "{tmp}", "--no-images"], "is a folder; name a file"),
        (["--json", "{tmp}/a.json", "--no-images", "--ignore", "nonsense"], "invalid choice"),
        (["--json", "{tmp}/a.json", "--no-images", "--output", "{tmp}/a.json"], "a.json"),
        (["--dataset", "no_such_data"], "'no_such_data' is not registered"),
        (["--dataset", "coco_2014_valminusminival"], "DETECTRON2_DATASETS"),
        (["--dataset", "shapes_val", "--images", "{tmp}"], "belongs to --json"),
    ],
)
def test_what_cannot_be_used_is_status_2_and_one_line(data, tmp_path, capsys, args, said):
    data(coco())
    assert status_of(*(arg.replace("{tmp}", str(tmp_path)) for arg in args)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """The folder of a run on hostile data, and what the run printed."""
    folder = tmp_path_factory.mktemp("hostile")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = status_of(*write(folder, hostile()), "--output", folder / "out", "--samples", 3)
    assert status == 1
    return folder / "out", printed.getvalue()


def test_hostile_names_stay_text_in_terminal_and_page(hostile_run):
    folder, printed = hostile_run
    assert "onerror" in printed
    assert "\x1b" not in printed
    text = (folder / "sheet.html").read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert len(re.findall("<script", text)) == 2  # of the page itself
    json.loads((folder / "report.json").read_text())


def test_hostile_data_opens_in_a_browser(hostile_run, tmp_path):
    opened = open_page(hostile_run[0] / "sheet.html", tmp_path)
    assert console_lines(opened.log) == []
    assert "2 of 2 images" in opened.dom  # which the script has written


def test_hostile_data_fits_a_phone(hostile_run, tmp_path):
    check_on_phone(hostile_run[0] / "sheet.html", tmp_path)


@pytest.mark.needs_shared
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_has_no_errors_or_warnings(shared, split, capsys):
    root = shared / "data" / "coco_tiny" / "coco"
    if not root.is_dir():
        pytest.skip("the COCO sample is absent")
    status = status_of(
        "--json", root / "annotations" / f"instances_{split}2017.json",
        "--images", root / f"{split}2017", "--strict",
    )  # fmt: skip
    assert status == 0, capsys.readouterr().out
